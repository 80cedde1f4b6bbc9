"""One rule decides on every surface whether a metric has an interval: eight prompts or more."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from afd.evaluation import readings, targets
from afd.evaluation.comparison import Difference
from afd.evaluation.intervals import MIN_PROMPTS, interval_of
from afd.evaluation.statistics import Estimate
from flows.commands.display import results_table
from flows.prefect_runs.pages import campaign_rows

CLEAR = {"teacher": 1.0, "base": 4.0, "student": 1.0, "difference": -3.0, "interval": [-3.5, -2.5]}


def summary(num_prompts: int) -> dict:
    metrics = {"trajectory_error_px": CLEAR | {"num_prompts": num_prompts, "p_holm": 0.001}}
    return {"metrics": metrics, "num_prompts": num_prompts, "noise_seeds": [1]}


@pytest.mark.parametrize("num_prompts", [1, MIN_PROMPTS - 1])
def test_below_eight_prompts_there_is_no_interval_and_the_reason_is_given(num_prompts: int) -> None:
    measured = summary(num_prompts)
    (row,) = readings.rows(measured, None)
    assert (row.interval, row.p_holm) == (None, None)
    assert readings.read(row).startswith(f"{num_prompts} prompt")
    assert "too few for an interval, so nothing is claimed" in readings.read(row)
    assert targets.verdicts(measured)[0].verdict == "not estimable"
    assert not difference(num_prompts).is_clear and difference(num_prompts).interval is None


def test_from_eight_prompts_on_the_interval_counts() -> None:
    measured = summary(MIN_PROMPTS)
    (row,) = readings.rows(measured, None)
    assert row.interval == (-3.5, -2.5)
    assert readings.read(row) == "75 % lower than the base, better"
    assert targets.verdicts(measured)[0].verdict == "pass"
    assert difference(MIN_PROMPTS).is_clear


def test_a_metric_of_few_prompts_in_a_large_evaluation_has_none() -> None:
    """Interpenetration is defined for the prompts whose balls meet alone."""
    assert interval_of(CLEAR | {"num_prompts": 3}, 192) is None
    assert interval_of(CLEAR, 192) == (-3.5, -2.5)


def test_terminal_and_prefect_read_the_same_rule(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    for num_prompts, text in ((MIN_PROMPTS - 1, "too few prompts"), (MIN_PROMPTS, "[-3.5, -2.5]")):
        file.write_text(json.dumps(summary(num_prompts)))
        console = Console(width=200, record=True)
        console.print(results_table(file))
        assert text in console.export_text()
        (row,) = campaign_rows(file)
        assert ("to" in row["interval"]) == (num_prompts == MIN_PROMPTS)


def difference(num_prompts: int) -> Difference:
    paired = Estimate(-3.0, -3.5, -2.5, num_prompts, 0, "bca", 0.001)
    return Difference("trajectory_error_px", 4.0, 1.0, paired, 0.001)
