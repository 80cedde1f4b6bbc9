"""Rows of a results table and their reading in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from afd.evaluation.intervals import Interval, finite, interval_of, num_prompts_of, too_few
from afd.evaluation.metric_specs import FRECHET_DISTANCE, Direction, metric_spec

MAX_CHANCE = 0.05  # of Holm's adjusted p; a clear interval of one metric in ten is no finding
# Directions that the params of an external evaluator can give.
EXTERNAL: Mapping[str, Direction] = {"low": "low", "high": "high", "none": "none"}


@dataclass(frozen=True)
class Row:
    """One metric of an evaluation; None where it is not defined."""

    name: str
    teacher: float | None
    base: float | None
    student: float | None
    difference: float | None  # student - base, paired by prompt
    interval: Interval | None  # of the difference; None below MIN_PROMPTS prompts too
    margin: float | None = None  # of a guard: the most that it may move, fixed before the run
    p_holm: float | None = None  # of the difference, adjusted over all metrics
    num_prompts: int | None = None  # in which the metric is defined for both sides
    better: Direction | None = None  # None: the direction of the metric's spec
    is_independent: bool = True  # False: the discriminator started from it or is trained on it


def rows(summary: Mapping[str, Any], frechet_margin: float | None) -> list[Row]:
    """Return a row for each metric of an evaluation's summary."""
    return [
        row(
            name, values, frechet_margin if name == FRECHET_DISTANCE else None,
            summary.get("num_prompts"),
        )
        for name, values in summary["metrics"].items()
    ]  # fmt: skip


def row(
    name: str,
    values: Mapping[str, object],
    margin: float | None = None,
    num_prompts: int | None = None,
) -> Row:
    """Return a row from `{"teacher", "base", "student", "difference", "interval", ...}`.

    `num_prompts` is the evaluation's, for a metric without its own. Raises ValueError for an
    interval that is no pair.
    """
    count, own = num_prompts_of(values, num_prompts), num_prompts_of(values, None)
    interval = values.get("interval")
    if interval is not None and (not isinstance(interval, Sequence) or len(interval) != 2):
        raise ValueError(f"metrics.{name}.interval must be [low, high], got {interval!r}")
    return Row(
        name,
        finite(values.get("teacher")),
        finite(values.get("base")),
        finite(values.get("student")),
        finite(values.get("difference")),
        interval_of(values, num_prompts),
        margin,
        None if too_few(count) else finite(values.get("p_holm")),
        count if too_few(count) else own,
        EXTERNAL.get(str(values.get("goal"))),
        values.get("independent") is not False,
    )


def read(row: Row) -> str:
    """Return one plain sentence about a row, with claims that the interval supports."""
    if row.student is None or row.base is None:
        return "not defined for these clips"
    if reason := too_few(row.num_prompts):
        return f"{reason}, so nothing is claimed"
    if row.interval is None or row.difference is None:
        return "no interval can be given, so nothing is claimed"
    if row.margin is not None:
        return _guarded(row.interval, row.margin)
    if row.interval[0] <= 0 <= row.interval[1]:
        return "no clear change: the interval contains 0"
    better = row.better or metric_spec(row.name).better
    text = _change(row.base, row.difference, row.teacher, better)
    text += "" if row.is_independent else "; no independent judge, the discriminator knows it"
    chance = row.p_holm is not None and row.p_holm > MAX_CHANCE
    return text + (", but not beyond chance over all metrics" if chance else "")


def _guarded(interval: Interval, margin: float) -> str:
    """Compare with the margin: guards are distances, and the upper end must be within."""
    low, high = interval
    if high <= margin:
        return f"kept: the interval lies within the margin of {show(margin)}"
    word = "not shown to be kept: the interval reaches" if low <= margin else "lost: it lies"
    return f"{word} outside the margin of {show(margin)}"


def _change(base: float, change: float, teacher: float | None, better: Direction) -> str:
    """Return a clear change in words."""
    if better == "teacher" and teacher is not None and teacher != base:
        share = change / (teacher - base)
        way = f"moved {_percent(share)} of the way from base to teacher"
        return "moved away from the teacher" if share < 0 else way
    if base == 0 or better == "none":
        return f"changed by {_signed(change)}"
    word = "lower" if change < 0 else "higher"
    improved = {"low": change < 0, "high": change > 0}.get(better)
    verdict = "" if improved is None else (", better" if improved else ", worse")
    return f"{_percent(abs(change / base))} {word} than the base{verdict}"


def show(value: float | None) -> str:
    """Return three significant digits, without exponent for everyday sizes; None is a dash."""
    if value is None:
        return "\u2013"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{digits}f}".replace("-", "\u2212")
    return f"{value:.2e}".replace("-", "\u2212")


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as dotted names and texts."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", str(value)))
    return pairs


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + show(value)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
