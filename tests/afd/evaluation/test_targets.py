"""Targets are met by the numbers alone: at the limit, beyond it, and never where one is missing."""

import copy
import math
from typing import Any

import pytest

from afd.evaluation.targets import Target, verdicts

GOOD: dict[str, Any] = {
    "metrics": {
        "trajectory_error_px": {"base": 4.0, "student": 1.0, "interval": [-3.2, -2.8]},
        "gravity": {"teacher": 0.15, "base": 0.05, "student": 0.13, "interval": [0.07, 0.09]},
        "object_permanence": {"base": 1.0, "student": 0.96, "interval": [-0.05, -0.03]},
        "interpenetration": {"base": 0.6, "student": 0.12, "interval": [-0.6, -0.4]},
        "frechet_distance": {"base": 0.5, "student": 2.5, "interval": [1.5, 2.9]},
    },
    "frechet_margin": 3.0,
}


def judged(name: str, **changed: Any) -> Target:
    summary = copy.deepcopy(GOOD)
    summary["metrics"][name] |= changed
    return next(target for target in verdicts(summary) if target.name == name)


def test_every_target_of_the_issue_is_judged_by_its_own_number() -> None:
    found = {target.name: (target.value, target.limit, target.verdict) for target in verdicts(GOOD)}
    assert found == {
        "trajectory_error_px": (0.75, 0.6, "pass"),
        "gravity": (pytest.approx(0.8), 2 / 3, "pass"),
        "interpenetration": (0.2, 0.25, "pass"),
        "object_permanence": (0.96, 0.95, "pass"),
        "frechet_distance": (2.9, 3.0, "pass"),
    }


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("trajectory_error_px", {"student": 1.61}),
        ("trajectory_error_px", {"interval": [-3.2, 0.0]}),  # touches 0
        ("trajectory_error_px", {"student": 7.0, "interval": [2.0, 4.0]}),  # 0 excluded, but worse
        ("gravity", {"student": 0.116}),
        ("gravity", {"student": 0.0}),  # away from the teacher
        ("interpenetration", {"student": 0.151}),
        ("object_permanence", {"student": 0.949}),
        ("frechet_distance", {"interval": [1.5, 3.1]}),  # the mean difference is within, 2.0
    ],
)
def test_a_target_that_is_missed_fails(name: str, changed: dict[str, Any]) -> None:
    assert judged(name, **changed).verdict == "fail"


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, "1"])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("trajectory_error_px", "base"),
        ("trajectory_error_px", "student"),
        ("gravity", "teacher"),
        ("interpenetration", "base"),
        ("object_permanence", "student"),
    ],
)
def test_what_was_not_measured_is_not_estimable(name: str, key: str, missing: object) -> None:
    target = judged(name, **{key: missing})
    assert (target.value, target.verdict) == (None, "not estimable")


@pytest.mark.parametrize("interval", [None, [None, None], [-1.0, None], [math.nan, -1.0], []])
@pytest.mark.parametrize("name", ["trajectory_error_px", "frechet_distance"])
def test_without_an_interval_nothing_is_claimed(name: str, interval: object) -> None:
    assert judged(name, interval=interval).verdict == "not estimable"


def test_of_a_base_without_the_fault_there_is_no_share() -> None:
    assert judged("interpenetration", base=0.0, student=0.0).verdict == "not estimable"
    assert judged("gravity", base=0.15).verdict == "not estimable"
    assert {t.verdict for t in verdicts({"metrics": {}})} == {"not estimable"}
