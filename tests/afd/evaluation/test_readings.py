"""What is said about a number is never more than its interval allows."""

import pytest

from afd.evaluation.metric_specs import SPECS, metric_spec
from afd.evaluation.readings import Row, read, row, show


def made(name: str, base: float, student: float, half: float, teacher: float | None = None) -> Row:
    change = student - base
    return Row(name, teacher, base, student, change, (change - half, change + half))


@pytest.mark.parametrize("name", [*SPECS, "a_new_metric"])
@pytest.mark.parametrize("change", [-0.4, 0.0, 0.4])
def test_an_interval_that_contains_zero_claims_nothing(name: str, change: float) -> None:
    said = read(made(name, 1.0, 1.0 + change, 0.5, teacher=2.0))
    assert said == "no clear change: the interval contains 0"
    no_interval = Row(name, 2.0, 1.0, 1.0 + change, change, None)
    assert read(no_interval) == "no interval can be given, so nothing is claimed"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (made("trajectory_error_px", 4.0, 1.0, 0.1), "75 % lower than the base, better"),
        (made("trajectory_error_px", 4.0, 5.0, 0.1), "25 % higher than the base, worse"),
        (made("object_permanence", 1.0, 0.9, 0.01), "10 % lower than the base, worse"),
        (made("gravity", 0.05, 0.125, 0.01, 0.15), "moved 75 % of the way from base to teacher"),
        (made("gravity", 0.05, 0.2, 0.01, 0.15), "moved 150 % of the way from base to teacher"),
        (made("gravity", 0.05, 0.01, 0.01, 0.15), "moved away from the teacher"),
        (made("sharpness", 0.2, 0.1, 0.01, 0.5), "50 % lower than the base"),
        (made("interpenetration", 0.0, 0.25, 0.01), "changed by +0.250"),
        (made("a_new_metric", 2.0, 1.0, 0.1), "changed by \u22121.00"),
    ],
)
def test_a_clear_change_is_said_in_words(row: Row, said: str) -> None:
    assert read(row) == said


def test_a_guard_is_judged_by_its_margin_and_one_clear_metric_of_many_is_doubted() -> None:
    guard = {"base": 0.1, "student": 0.25, "difference": 0.15, "interval": [0.1, 0.2]}
    said = {
        0.2: "kept: the interval lies within the margin of 0.200",
        0.15: "not shown to be kept: the interval reaches outside the margin of 0.150",
        0.09: "lost: it lies outside the margin of 0.0900",
    }
    for margin, expected in said.items():
        assert read(row("frechet_distance", guard, margin=margin)) == expected
    unknown = guard | {"interval": None}
    assert "nothing is claimed" in read(row("frechet_distance", unknown, margin=9.0))
    clear = {"base": 2.0, "student": 1.0, "difference": -1.0, "interval": [-1.9, -0.1]}
    doubted = row("trajectory_error_px", clear | {"p_holm": 0.3})
    assert (
        read(doubted) == "50 % lower than the base, better, but not beyond chance over all metrics"
    )


def test_what_is_undefined_stays_undefined() -> None:
    empty = row("bounce", {"teacher": 0.8, "base": None, "student": float("nan"), "interval": None})
    assert empty.student is None
    assert read(empty) == "not defined for these clips"
    assert row("bounce", {"interval": [None, None]}).interval is None
    with pytest.raises(ValueError, match=r"metrics\.bounce\.interval must be \[low, high\]"):
        row("bounce", {"interval": [1.0]})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\u2013"),
        (0.0, "0"),
        (0.046, "0.0460"),
        (-3.504, "\u22123.50"),
        (80.94, "80.9"),
        (1234.5, "1234"),
        (0.9999, "1.000"),
        (6.16e-5, "6.16e\u221205"),
    ],
)
def test_numbers_are_short_and_readable(value: float | None, text: str) -> None:
    assert show(value) == text


def test_a_metric_nobody_described_is_shown_under_its_own_name() -> None:
    assert metric_spec("some_new_metric").title == "Some new metric"
