"""What a campaign must show: every target, the number it is judged by, and whether it is met.

Fixed before any run (evaluate.frechet_margin among them), so nobody moves them afterwards.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["pass", "fail", "not estimable"]
MIN_REDUCTION = 0.6  # of the trajectory error, base to student
MIN_WAY = 2 / 3  # of gravity, base to teacher
MAX_INTERPENETRATION = 0.25  # of the base's
MIN_PERMANENCE = 0.95


@dataclass(frozen=True)
class Target:
    """`value` is what `rule` compares with `limit`; None where the measurements do not say."""

    name: str  # of the metric
    rule: str
    value: float | None
    limit: float | None
    verdict: Verdict


def judge(summary: Mapping[str, Any]) -> list[Target]:
    """Every target, judged by a final evaluation's summary: `metrics` and `frechet_margin`.

    A metric, a side or an interval that is missing, None or not finite is not estimable: never met.
    """
    metrics: Mapping[str, Mapping[str, Any]] = summary["metrics"]

    def side(name: str, key: str) -> float | None:
        return _finite(metrics.get(name, {}).get(key))

    def high(name: str) -> float | None:
        """The upper end of the interval of student - base, where both ends are known."""
        bounds = metrics.get(name, {}).get("interval")
        if not isinstance(bounds, Sequence) or len(bounds) != 2 or None in map(_finite, bounds):
            return None
        return _finite(bounds[1])

    error, above = "trajectory_error_px", high("trajectory_error_px")
    reduction = _share(_minus(side(error, "base"), side(error, "student")), side(error, "base"))
    base, passing = side("gravity", "base"), "interpenetration"
    way = _share(_minus(side("gravity", "student"), base), _minus(side("gravity", "teacher"), base))
    remaining = _share(side(passing, "student"), side(passing, "base"))
    kept, frechet = side("object_permanence", "student"), high("frechet_distance")
    margin = _finite(summary.get("frechet_margin"))
    return [
        Target(
            error,
            "share below the base, at least; interval of the difference below 0",
            reduction,
            MIN_REDUCTION,
            _verdict(reduction, above, lambda share, end: share >= MIN_REDUCTION and end < 0),
        ),
        Target(
            "gravity",
            "share of the way from base to teacher, at least",
            way,
            MIN_WAY,
            _verdict(way, MIN_WAY, lambda share, least: share >= least),
        ),
        Target(
            passing,
            "share of the base's, at most",
            remaining,
            MAX_INTERPENETRATION,
            _verdict(remaining, MAX_INTERPENETRATION, lambda share, most: share <= most),
        ),
        Target(
            "object_permanence",
            "of the student, at least",
            kept,
            MIN_PERMANENCE,
            _verdict(kept, MIN_PERMANENCE, lambda value, least: value >= least),
        ),
        Target(
            "frechet_distance",
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
    """part / whole; of nothing there is no share."""
    return None if part is None or whole is None or whole == 0 else part / whole


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
