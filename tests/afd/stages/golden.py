"""The golden pocket round: one tiny round, and every number that it showed.

    .venv/bin/python -m tests.afd.stages.golden      writes golden.json anew

Write it anew only with a change of the mathematics, and say so in the commit.
"""

import json
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afd.artifacts import Artifact
from afd.config import Params
from afd.params import load_params
from afd.stages import request
from afd.stages.door import execute, limit_threads
from afd.stages.request import StageRequest
from afd.store import Store

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
FILE = Path(__file__).with_name("golden.json")


def machine() -> dict[str, str]:
    """What the last bits of a float depend on."""
    return {
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _cpu() -> str:
    """Family, model and stepping: libraries choose kernels by them, also among AVX512 ones."""
    cpuinfo = Path("/proc/cpuinfo")
    told = cpuinfo.read_text().split("\n\n")[0] if cpuinfo.exists() else ""
    said = dict(re.findall(r"^([a-z_ ]+?)\s*: (.+)$", told, re.M))
    wanted = ("vendor_id", "cpu family", "model", "stepping")
    return " ".join(said.get(name, "?") for name in wanted) if said else platform.processor()


def play(root: Path) -> dict[str, list[float | None]]:
    """Quantity -> its values over steps, of one round and its evaluation; None: no such side."""
    store, params = Store(root), load_params(Params, TINY)
    made: dict[str, Artifact] = {}

    def make(role: str, asked: StageRequest) -> Any:
        made[role] = execute(asked, store)
        return made[role].ref

    prompts = make("prompts", request.prompts(params))
    base = make("warmstart", request.warmstart(params, prompts))
    clips = make("harvest", request.harvest_round(params, prompts, 0))
    held_out = make("held_out", request.harvest_held_out(params, prompts))
    rollouts = make("rollout", request.rollout(params, prompts, base, 0))
    judge = make("fit", request.fit(params, [clips], [rollouts], None, 0))
    student = make("update", request.update(params, [clips], rollouts, judge, base, base, 0))
    make("evaluate", request.evaluate_final(params, prompts, student, base, held_out))

    shown: dict[str, list[float | None]] = {}
    for role in ("warmstart", "fit", "update"):
        for line in made[role].file("metrics.jsonl").read_text().splitlines():
            for name, value in json.loads(line).items():
                shown.setdefault(name, []).append(value)
    summary = json.loads(made["evaluate"].file("summary.json").read_bytes())
    for name, row in summary["metrics"].items():
        shown[f"evaluate/{name}"] = [row[side] for side in ("teacher", "base", "student")]
    del shown["step"]
    return shown


if __name__ == "__main__":
    limit_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        golden = {"machine": machine(), "numbers": play(Path(folder))}
    FILE.write_text(json.dumps(golden, indent=1) + "\n")
    sys.stdout.write(f"{FILE} written: {len(golden['numbers'])} quantities\n")
