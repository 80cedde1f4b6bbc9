"""The golden pocket round: one tiny round, and every number that it showed.

    .venv/bin/python -m tests.afd.stages.golden        writes golden.json anew
    .venv/bin/python -m tests.afd.stages.golden add    adds this kind of CPU's round to it

Write it anew only with a change of the mathematics, and say so in the commit; the rounds of other
kinds of CPU are gone then, until somebody who has one adds it.
"""

import json
import math
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
from afd.runtime.request import StageRequest
from afd.stages import requests
from afd.stages.execute import execute, limit_threads
from afd.store import Store

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
FILE = Path(__file__).with_name("golden.json")
# Between kinds of CPU the last bits of sums differ: after this round by 2e-5 of a value at most,
# Intel against AMD; the tolerance leaves room for instructions that neither has.
NEAR, NEAR_ZERO = 1e-2, 1e-4
Numbers = dict[str, list[float | None]]


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


def play(root: Path) -> Numbers:
    """Quantity -> its values over steps, of one round and its evaluation; None: no such side."""
    store, params = Store(root), load_params(Params, TINY)
    made: dict[str, Artifact] = {}

    def make(role: str, asked: StageRequest) -> Any:
        made[role] = execute(asked, store)
        return made[role].ref

    prompts = make("prompts", requests.prompts(params))
    base = make("warmstart", requests.warmstart(params, prompts))
    clips = make("harvest", requests.harvest_round(params, prompts, 0))
    held_out = make("held_out", requests.harvest_held_out(params, prompts))
    rollouts = make("rollout", requests.rollout(params, prompts, base, 0))
    judge = make("fit", requests.fit(params, [clips], [rollouts], None, 0))
    student = make("update", requests.update(params, [clips], rollouts, judge, base, base, 0))
    make("evaluate", requests.evaluate_final(params, prompts, student, base, held_out))

    shown: Numbers = {}
    for role in ("warmstart", "fit", "update"):
        for line in made[role].file("metrics.jsonl").read_text().splitlines():
            for name, value in json.loads(line).items():
                shown.setdefault(name, []).append(value)
    summary = json.loads(made["evaluate"].file("summary.json").read_bytes())
    for name, row in summary["metrics"].items():
        shown[f"evaluate/{name}"] = [row[side] for side in ("teacher", "base", "student")]
    del shown["step"]
    return shown


def rounds() -> list[dict[str, Any]]:
    """The golden rounds there are, a kind of machine each: `machine` and `numbers`."""
    return json.loads(FILE.read_text())


def is_near(numbers: Numbers, wanted: Numbers) -> bool:
    """Whether another kind of CPU explains the difference; None, no such side, stays None."""
    return numbers.keys() == wanted.keys() and all(
        len(values) == len(wanted[name]) and all(map(_is_near, values, wanted[name]))
        for name, values in numbers.items()
    )


def _is_near(value: float | None, wanted: float | None) -> bool:
    if value is None or wanted is None:
        return value is wanted
    return math.isclose(value, wanted, rel_tol=NEAR, abs_tol=NEAR_ZERO)


if __name__ == "__main__":
    limit_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        golden = {"machine": machine(), "numbers": play(Path(folder))}
    kept = rounds() if sys.argv[1:] == ["add"] else []
    others = [one for one in kept if one["machine"] != golden["machine"]]
    FILE.write_text(json.dumps([*others, golden], indent=1) + "\n")
    sys.stdout.write(f"{FILE} written: {len(golden['numbers'])} quantities\n")
