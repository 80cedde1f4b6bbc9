"""A workspace against kills and damage: what loads is what was saved, nothing is there twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from afd.attempts import Attempt
from afd.runtime.parts import notices_file
from afd.runtime.workspace import METRICS, NUM_CHECKPOINTS, Workspace
from afd.store import StoreError

STEPS = 6
# A training loop in miniature: a state that depends on every step before it.
LOOP = f"""
import sys, torch
from pathlib import Path
from afd.runtime.workspace import Workspace
from afd.attempts import Attempt
work = Workspace(Attempt.begin(Path(sys.argv[1])))
work.prepare()
kept = work.resume()
step, state = (0, torch.zeros(4)) if kept is None else (kept[0], kept[1]["state"])
while step < {STEPS}:
    step += 1
    state = state * 0.5 + step
    work.record(step, {{"loop/sum": float(state.sum())}})
    work.checkpoint(step, {{"state": state}}, {{"step_again": step}})
(work.out / "result.bin").write_bytes(state.numpy().tobytes())
"""


def run_loop(folder: Path, failpoint: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AFD_FAILPOINT": failpoint, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", LOOP, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def files(folder: Path) -> dict[str, bytes]:
    """What the latest attempt would publish."""
    latest = max((folder / "attempts").iterdir())
    return {p.name: p.read_bytes() for p in (latest / "out").iterdir()}


@pytest.mark.parametrize("failpoint", ["checkpoint.before_rename:3", "checkpoint.after_rename:3"])
def test_a_killed_loop_goes_on_and_ends_bit_identical(tmp_path: Path, failpoint: str) -> None:
    assert run_loop(tmp_path / "whole").returncode == 0
    killed = run_loop(tmp_path / "killed", failpoint)
    assert killed.returncode == -signal.SIGKILL
    assert "result.bin" not in files(tmp_path / "killed")
    resumed = run_loop(tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    last = 2 if "before" in failpoint else 3
    assert f"resumed from step {last} " in resumed.stderr  # not afresh
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def prepared(folder: Path) -> Workspace:
    work = Workspace(Attempt.begin(folder))
    work.prepare()
    return work


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    work = prepared(tmp_path)
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor([1, 2], dtype=torch.int64)}
    work.checkpoint(7, tensors, {"names": ["x", "y"], "rate": 0.1})
    kept = prepared(tmp_path).resume()
    assert kept is not None
    step, loaded, meta = kept
    assert (step, meta) == (7, {"names": ["x", "y"], "rate": 0.1})
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_damaged_checkpoint_is_passed_over_with_its_metrics(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = prepared(tmp_path)
    for step in (1, 2, 3):
        work.record(step, {"fit/loss": 1.0 / step})
        work.checkpoint(step, {"state": torch.full((100,), float(step))}, {})
    saved = sorted(work.checkpoints.iterdir())
    assert len(saved) == NUM_CHECKPOINTS
    damaged = bytearray(saved[-1].read_bytes())
    damaged[-5] ^= 1  # safetensors alone would load this
    saved[-1].write_bytes(damaged)
    again = prepared(tmp_path)
    kept = again.resume()
    assert kept is not None
    assert kept[0] == 2
    assert torch.equal(kept[1]["state"], torch.full((100,), 2.0))
    lines = (again.out / METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert f"{saved[-1].name} is damaged" in capfd.readouterr().err
    assert not saved[-1].exists()  # set aside: it is looked at once
    assert (again.path / "damaged" / saved[-1].name).read_bytes() == damaged
    (notice,) = notices_file(again.path).read_text().splitlines()
    assert f"checkpoint {saved[-1].name} is damaged: the stage goes on from step 2" in notice


def test_training_is_not_begun_again_when_no_checkpoint_loads(tmp_path: Path) -> None:
    work = prepared(tmp_path)
    work.checkpoint(1, {"state": torch.zeros(2)}, {})
    for file in work.checkpoints.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"none of the 1 checkpoints loads.*rm -r"):
        prepared(tmp_path).resume()


def test_a_line_of_metrics_cut_short_by_a_kill_goes(tmp_path: Path) -> None:
    work = prepared(tmp_path)
    work.record(1, {"fit/loss": 1.0})
    work.checkpoint(1, {"state": torch.zeros(1)}, {})
    with (work.out / METRICS).open("a") as file:
        file.write('{"step": 2, "fit/lo')
    again = prepared(tmp_path)
    again.resume()
    again.record(2, {"fit/loss": 0.5})
    lines = (again.out / METRICS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "fit/loss": 1.0},
        {"step": 2, "fit/loss": 0.5},
    ]


def test_leftovers_of_a_killed_attempt_never_reach_the_artifact(tmp_path: Path) -> None:
    work = prepared(tmp_path)
    work.record(1, {"fit/loss": 1.0})
    work.checkpoint(1, {"state": torch.zeros(1)}, {})
    (work.out / ".manifest.json.99.tmp").write_text("half")
    (work.out / "weights.safetensors").write_text("half")
    (work.out / "strips").mkdir()
    again = prepared(tmp_path)
    again.resume()
    assert [left.name for left in again.out.iterdir()] == [METRICS]


def test_time_spent_adds_up_over_attempts(tmp_path: Path) -> None:
    first = prepared(tmp_path)
    first._spent_before = (100.0, 50.0)
    first.checkpoint(1, {"state": torch.zeros(1)}, {})
    second = prepared(tmp_path)
    second.resume()
    wall_s, cpu_s = second.spent()
    assert 100.0 <= wall_s < 160.0
    assert 50.0 <= cpu_s < 110.0
