"""How tuning walks: the same number of runs for every arm, each decided by those before it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.tuning import next_rate, save

RATES = [5e-5, 1e-4, 2e-4, 4e-4, 1e-3]


def walked(error: Callable[[float], float], permanence: float = 1.0) -> list[float]:
    found: list[dict[str, Any]] = []
    for _ in range(3):
        rate = next_rate(RATES, 2e-4, found, 0.95)
        assert rate is not None
        row = {"learning_rate": rate, "trajectory_error_px": error(rate)}
        found.append(row | {"object_permanence": permanence})
    return [row["learning_rate"] for row in found]


def test_it_goes_on_where_it_gets_better() -> None:
    assert walked(lambda rate: -rate) == [2e-4, 4e-4, 1e-3]
    assert walked(lambda rate: rate) == [2e-4, 4e-4, 1e-4]


def test_a_run_that_loses_the_balls_is_no_way_to_go() -> None:
    found = [
        {"learning_rate": 2e-4, "trajectory_error_px": 1.0, "object_permanence": 0.97},
        {"learning_rate": 4e-4, "trajectory_error_px": 0.8, "object_permanence": 0.70},
    ]
    assert next_rate(RATES, 2e-4, found, 0.95) == 1e-4
    assert next_rate(RATES, 2e-4, found, 0.60) == 1e-3


@pytest.mark.parametrize("failed", [2e-4, 4e-4])
def test_a_run_that_failed_is_no_way_to_go_either(failed: float) -> None:
    found = [
        {
            "learning_rate": rate,
            "trajectory_error_px": None if rate == failed else 1.0,
            "object_permanence": None if rate == failed else 1.0,
        }
        for rate in (2e-4, 4e-4)
    ]
    assert next_rate(RATES, 2e-4, found, 0.95) == (1e-3 if failed == 2e-4 else 1e-4)


def test_what_was_tuned_before_stays_beside_the_arm_that_is_tuned_now(tmp_path: Path) -> None:
    file = tmp_path / "tuning.csv"
    save(pd.DataFrame({"arm": ["afd", "sft"], "error": [1.0, 2.0], "own": [None, "x"]}), file)
    before = file.read_bytes()
    save(pd.DataFrame(), file)  # nothing was played: nothing is lost
    assert file.read_bytes() == before
    save(pd.DataFrame({"arm": ["sft"], "error": [0.12345], "own": [None]}), file)
    assert file.read_text().split() == ["arm,error,own", "afd,1,", "sft,0.1235,"]
