"""What is said about the ablations, on results whose truth is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from afd.evaluation import findings
from afd.evaluation.results import DONE, CellResult

CARD = {"prompts": "one", "num_frames": 16}


def cell(arm: str, error: float, *, seed: int = 1, permanence: float = 0.98, look: float = 1.0,
         world: str | None = None) -> CellResult:  # fmt: skip
    draw = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "prompt_id": [f"p{n}" for n in range(40)],
            "noise_seed": 11,
            "trajectory_error_px": error + draw.normal(0, 0.02, 40),
        }
    )
    student = {"trajectory_error_px": error, "object_permanence": permanence,
               "frechet_distance": look}  # fmt: skip
    base: dict[str, float | None] = {"trajectory_error_px": 2.7, "object_permanence": 0.98}
    drift = {"student": {"trajectory_error_px": [0.5, 1.5]}}
    drift |= {"base": {"trajectory_error_px": [1.0, 2.0]}}
    horizon = {"base": base, "student": student, "drift": drift, "horizon": 2}
    name = f"{arm}-{seed}"
    return CellResult(name, arm, world, seed, DONE, student=student, base=base, card=CARD,
                      horizon=horizon, table=rows)  # fmt: skip


def curve(folder: Path, name: str, **columns: list[float]) -> pd.DataFrame:
    frame = pd.DataFrame({"round": range(len(next(iter(columns.values())))), **columns})
    frame.to_csv(folder / f"{name}.csv", index=False)
    return frame


def test_rollouts_are_interpolated_between_rounds_and_never_is_never(tmp_path: Path) -> None:
    found = curve(
        tmp_path, "a", num_rollouts=[0, 512, 1024, 1536], trajectory_error_px=[2.8, 2.0, 1.0, 1.4]
    )
    assert findings.rollouts_needed(found, 2.0) == 512
    assert findings.rollouts_needed(found, 1.5) == pytest.approx(768)
    assert findings.rollouts_needed(found, 2.4) == pytest.approx(256)
    assert findings.rollouts_needed(found, 0.9) is None


def test_an_arm_that_some_seeds_bring_there_says_how_many(tmp_path: Path) -> None:
    rows = {"num_rollouts": [0.0, 512.0]}
    curve(tmp_path, "afd-1", **rows, trajectory_error_px=[2.8, 1.2])
    curve(tmp_path, "afd-2", **rows, trajectory_error_px=[2.8, 1.9])
    curve(tmp_path, "sft-1", num_rollouts=[0, 0], trajectory_error_px=[2.8, 0.7])
    cells = [cell("afd", 1.2), cell("afd", 1.9, seed=2), cell("sft", 0.7)]
    (row,) = findings.efficiency(cells, tmp_path)[2:]
    assert "(1 of 2 seeds)" in row and row.endswith("| not reached |")


def test_a_score_that_rises_with_the_error_is_hacked_and_one_that_falls_is_not(
    tmp_path: Path,
) -> None:
    told = {"object_permanence": [0.9, 0.9, 0.9], "trajectory_error_px": [2.0, 1.0, 1.5]}
    curve(tmp_path, "frozen_long-1", **told, mean_score=[-1.0, 0.0, 0.5])
    curve(tmp_path, "afd_long-1", **told, mean_score=[-1.0, 0.0, -0.5])
    cells = [cell("frozen_long", 1.5), cell("afd_long", 1.5)]
    frozen, live = findings.long_schedule(cells, tmp_path)[2:]
    assert frozen.endswith("| hacked |")
    assert live.endswith("| worse, score too |")


def test_who_wins_needs_a_clear_difference_and_keeps_its_balls() -> None:
    cells = [
        cell("afd", 1.0),
        cell("sft", 0.7, permanence=0.4, look=13.0),
        cell("gan", 1.0),
        cell("afd", 1.0, world="clips_32"),
        cell("sft", 1.5, world="clips_32"),
    ]
    rows = findings.best_by_world(cells)[2:]
    said = {tuple(row.split(" | ")[:2]): row for row in rows}
    assert "sft moves better; sft loses balls; afd keeps the look" in said["| pocket", "sft"]
    assert "no clear difference" in said["| pocket", "gan"]
    assert "afd moves better" in said["| clips 32", "sft"]
    assert said["| pocket", "sft"].split(" | ")[2] == "1"  # its seeds


def test_longer_clips_are_told_block_by_block() -> None:
    base, afd = findings.horizon([cell("afd", 1.0), cell("afd", 1.2, seed=2)])[2:]
    assert base.startswith("| base | 1.00 | 2.00 | 2.70 |")
    assert afd.startswith("| afd | 0.500 | 1.50 | 1.10 |")
