"""Targets of a campaign: rule, measured number, limit and verdict.

Targets are fixed before any run (evaluate.frechet_margin too) and never move afterwards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from afd.evaluation.intervals import finite, interval_of
from afd.evaluation.metric_specs import (
    FRECHET_DISTANCE,
    GRAVITY,
    INTERPENETRATION,
    OBJECT_PERMANENCE,
    TRAJECTORY_ERROR,
)

Verdict = Literal["pass", "fail", "not estimable"]
MIN_REDUCTION = 0.6  # of the trajectory error, base to student
MIN_WAY = 2 / 3  # of gravity, base to teacher
MAX_INTERPENETRATION = 0.25  # of the base's
MIN_PERMANENCE = 0.95


@dataclass(frozen=True)
class Target:
    """`rule` compares `value` with `limit`; either is None where it was not measured."""

    name: str  # of the metric
    rule: str
    value: float | None
    limit: float | None
    verdict: Verdict


def verdicts(summary: Mapping[str, Any]) -> list[Target]:
    """Return every target by a final evaluation's summary: `metrics` and `frechet_margin`.

    A metric, a side or an interval that is missing, None or not finite is not estimable: never met.
    """
    metrics: Mapping[str, Mapping[str, Any]] = summary["metrics"]

    def side(name: str, key: str) -> float | None:
        return finite(metrics.get(name, {}).get(key))

    def high(name: str) -> float | None:
        """Return the upper end of the interval of student - base, where both ends are known."""
        interval = interval_of(metrics.get(name, {}), summary.get("num_prompts"))
        return None if interval is None else interval[1]

    error, above = TRAJECTORY_ERROR, high(TRAJECTORY_ERROR)
    reduction = _share(_minus(side(error, "base"), side(error, "student")), side(error, "base"))
    base, touching = side(GRAVITY, "base"), INTERPENETRATION
    way = _share(_minus(side(GRAVITY, "student"), base), _minus(side(GRAVITY, "teacher"), base))
    remaining = _share(side(touching, "student"), side(touching, "base"))
    permanence, frechet = side(OBJECT_PERMANENCE, "student"), high(FRECHET_DISTANCE)
    margin = finite(summary.get("frechet_margin"))
    return [
        Target(
            error,
            "share below the base, at least; interval of the difference below 0",
            reduction,
            MIN_REDUCTION,
            _verdict(reduction, above, lambda share, end: share >= MIN_REDUCTION and end < 0),
        ),
        Target(
            GRAVITY,
            "share of the way from base to teacher, at least",
            way,
            MIN_WAY,
            _verdict(way, MIN_WAY, lambda share, least: share >= least),
        ),
        Target(
            touching,
            "share of the base's, at most",
            remaining,
            MAX_INTERPENETRATION,
            _verdict(remaining, MAX_INTERPENETRATION, lambda share, most: share <= most),
        ),
        Target(
            OBJECT_PERMANENCE,
            "of the student, at least",
            permanence,
            MIN_PERMANENCE,
            _verdict(permanence, MIN_PERMANENCE, lambda value, least: value >= least),
        ),
        Target(
            FRECHET_DISTANCE,
            "upper end of the difference's interval, at most the margin",
            frechet,
            margin,
            _verdict(frechet, margin, lambda end, most: end <= most),
        ),
    ]


def _verdict(
    value: float | None, limit: float | None, is_met: Callable[[float, float], bool]
) -> Verdict:
    if value is None or limit is None:
        return "not estimable"
    return "pass" if is_met(value, limit) else "fail"


def _share(part: float | None, whole: float | None) -> float | None:
    """Return part / whole, or None where either is None or whole is 0."""
    return None if part is None or whole is None or whole == 0 else part / whole


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
