"""The table a campaign ends with: numbers, intervals, and a verdict for every target."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from afd.evaluation import targets
from flows.display import results_table

MEASURED: dict[str, Any] = {
    "metrics": {
        "trajectory_error_px": {"base": 4.0, "student": 1.0, "interval": [-3.2, -2.8]},
        "gravity": {"teacher": 0.15, "base": 0.05, "student": 0.06, "interval": [0.0, 0.02]},
        "interpenetration": {"base": None, "student": None, "interval": [None, None]},
    },
    "num_prompts": 192,
    "noise_seeds": [11, 12],
    "frechet_margin": 3.0,
}


def printed(folder: Path, content: dict[str, Any]) -> list[list[str]]:
    file = folder / "summary.json"
    file.write_text(json.dumps(content))
    console = Console(file=io.StringIO(), width=160)
    console.print(results_table(file))
    assert isinstance(console.file, io.StringIO)
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_every_target_ends_in_its_verdict_with_its_numbers(tmp_path: Path) -> None:
    judged = [asdict(target) for target in targets.judge(MEASURED)]
    lines = printed(tmp_path, MEASURED | {"targets": judged})
    below = lines[lines.index(["targets"]) :]
    assert [line[:4] for line in below if line[:1] == ["trajectory_error_px"]] == [
        ["trajectory_error_px", "pass", "0.75", "0.6"]
    ]
    assert ["gravity", "fail", "0.1", "0.667"] in [line[:4] for line in below]
    for name in ("interpenetration", "object_permanence", "frechet_distance"):
        assert [name, "not", "estimable", "-"] in [line[:4] for line in below]


def test_a_summary_from_before_targets_shows_its_metrics(tmp_path: Path) -> None:
    lines = printed(tmp_path, MEASURED)
    assert ["targets"] not in lines
    assert ["trajectory_error_px", "-", "4", "1", "-", "[-3.2,", "-2.8]"] in lines
