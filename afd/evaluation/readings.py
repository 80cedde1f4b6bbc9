"""What each metric means to a person: its title, its unit, where it should go, and what it says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MAX_CHANCE = 0.05  # of Holm's adjusted p; a clear interval of one metric in ten is no finding
Goal = Literal["low", "high", "teacher", "base", "none"]
GOALS: Mapping[str, Goal] = {"low": "low", "high": "high", "none": "none"}  # of evaluators outside


@dataclass(frozen=True)
class Meaning:
    """How to read a metric. `goal`: where a student that learns well takes it."""

    title: str
    unit: str
    goal: Goal
    says: str
    of_look: bool = False  # the teacher looks different by construction: no level to reach


@dataclass(frozen=True)
class Row:
    """One metric of a final evaluation; None where it is not defined."""

    name: str
    teacher: float | None
    base: float | None
    student: float | None
    difference: float | None  # student - base, paired by prompt
    interval: tuple[float, float] | None  # of the difference
    margin: float | None = None  # a guard: how far it may move, fixed before the run
    p_holm: float | None = None  # of the difference, adjusted over all metrics
    num_prompts: int | None = None  # those in which the metric is defined for both
    goal: Goal | None = None  # of an evaluator outside; None: as `meaning` says
    is_independent: bool = True  # false: the discriminator started from it, or learns by it


MEANINGS: Mapping[str, Meaning] = {
    "trajectory_error_px": Meaning(
        "Trajectory error", "px", "low", "distance from where the teacher's laws take the balls"
    ),
    "gravity": Meaning(
        "Gravity", "px/frame²", "teacher", "downward acceleration before the first contact"
    ),
    "gravity_free_fit": Meaning(
        "Gravity, free fit", "px/frame²", "teacher", "the same with the start speed fitted too"
    ),
    "object_permanence": Meaning(
        "Object permanence",
        "",
        "high",
        "share of balls, frame by frame, that are still there",
    ),
    "interpenetration": Meaning(
        "Interpenetration",
        "",
        "low",
        "share of meeting scenes in which balls pass through each other",
    ),
    "bounce": Meaning("Bounce", "", "teacher", "speed after a bounce over speed before it"),
    "motion": Meaning("Motion", "px/frame", "teacher", "mean speed of the balls"),
    "sharpness": Meaning(
        "Sharpness", "", "base", "edge strength; the look should stay the base's", True
    ),
    "flicker": Meaning("Flicker", "", "low", "grain and pumping brightness of the ground", True),
    "frechet_distance": Meaning(
        "Fréchet distance", "", "low", "distance from the base's own look; small means kept", True
    ),
    "pair_accuracy": Meaning(
        "Pair accuracy", "", "none", "share of pairs in which the teacher outscores the student"
    ),
    "pair_accuracy_before": Meaning(
        "Held-out accuracy", "", "none", "the same before the fit, on pairs it had never seen"
    ),
    "anchor_pair_accuracy": Meaning(
        "Frozen-anchor accuracy",
        "",
        "none",
        "on the first round's pairs, which never change: falling means that the discriminator "
        "forgets",
    ),
    "calibration_error": Meaning(
        "Calibration error",
        "",
        "none",
        "how far its claimed certainty is from how often it is right, 0 to 1",
    ),
    "calibration_error_before": Meaning(
        "Held-out calibration",
        "",
        "none",
        "the same before the fit: high means it is sure where it has not looked yet",
    ),
    "rank_correlation": Meaning(
        "Rank correlation",
        "",
        "high",
        "inside groups, of the score with the trajectory error that it never saw: 0 selects by "
        "chance, below 0 it selects the worse",
    ),
    "leak_accuracy": Meaning(
        "Leak probe",
        "",
        "none",
        "how often traces of compression alone name the side; 0.5 is chance. A teacher that looks "
        "different is named by its look: there 1 is no fault of the path",
    ),
    "effective_share": Meaning(
        "Effective sample size",
        "",
        "none",
        "share of the rollouts that carry the update: 1 when all pull alike",
    ),
    "static_share": Meaning("Still rollouts", "", "low", "share in which nothing moves"),
    "duplicate_share": Meaning(
        "Repeated rollouts", "", "low", "share that looks like an earlier one of its group"
    ),
    "mismatch_pair_accuracy": Meaning(
        "Matching accuracy",
        "",
        "none",
        "share of teacher clips scored higher under their own prompt than under another's",
    ),
    "margin": Meaning("Margin", "", "none", "mean score of teacher minus student"),
    "margin_before": Meaning(
        "Held-out margin", "", "none", "the same before the fit, on pairs it had never seen"
    ),
    "group_spread_before": Meaning(
        "Spread before", "", "none", "of scores inside groups, by the discriminator before its fit"
    ),
    "mean_score": Meaning("Mean score", "", "none", "of the round's rollouts"),
    "group_spread": Meaning(
        "Spread inside groups", "", "none", "what the advantage selects on; 0 teaches nothing"
    ),
    "zero_spread_share": Meaning(
        "Zero-spread groups",
        "",
        "none",
        "share of groups whose scores are alike: they teach nothing",
    ),
    "mean_abs_2w_minus_1": Meaning(
        "|2w \u2212 1|", "", "none", "strength of the update's signal, 0 to 1"
    ),
    "distance_to_behaviour": Meaning(
        "Distance to v_old", "", "none", "velocity distance from the student that rolled out"
    ),
    "distance_to_reference": Meaning(
        "Distance to v_ref", "", "none", "velocity distance from the student before any round"
    ),
}


def meaning(name: str) -> Meaning:
    """The meaning of a metric; one that nobody described is shown under its own name."""
    plain = name.replace("_", " ").replace(".", ": ")
    return MEANINGS.get(name, Meaning(plain[:1].upper() + plain[1:], "", "none", ""))


def row(name: str, values: Mapping[str, object], margin: float | None = None) -> Row:
    """A row from `{"teacher", "base", "student", "difference", "interval"}`; raises ValueError."""
    interval = values.get("interval")
    if interval is not None and (not isinstance(interval, Sequence) or len(interval) != 2):
        raise ValueError(f"metrics.{name}.interval must be [low, high], got {interval!r}")
    bounds = None if interval is None else (_number(interval[0]), _number(interval[1]))
    known = None if bounds is None or None in bounds else (bounds[0] or 0.0, bounds[1] or 0.0)
    return Row(
        name,
        _number(values.get("teacher")),
        _number(values.get("base")),
        _number(values.get("student")),
        _number(values.get("difference")),
        known,
        margin,
        _number(values.get("p_holm")),
        count if isinstance(count := values.get("num_prompts"), int) else None,
        GOALS.get(str(values.get("goal"))),
        values.get("independent") is not False,
    )


def read(row: Row) -> str:
    """One plain sentence about a row, with no more claimed than the interval allows."""
    if row.student is None or row.base is None:
        return "not defined for these clips"
    if row.interval is None or row.difference is None:
        return "no interval can be given, so nothing is claimed"
    if row.margin is not None:
        return _guarded(row.interval, row.margin)
    if row.interval[0] <= 0 <= row.interval[1]:
        return "no clear change: the interval contains 0"
    said = _change(row.base, row.difference, row.teacher, row.goal or meaning(row.name).goal)
    said += "" if row.is_independent else "; no independent judge, the discriminator knows it"
    chance = row.p_holm is not None and row.p_holm > MAX_CHANCE
    return said + (", but not beyond chance over all metrics" if chance else "")


def _guarded(interval: tuple[float, float], margin: float) -> str:
    """All guards so far are distances: less is better, and the upper end must stay within."""
    low, high = interval
    if high <= margin:
        return f"kept: the interval lies within the margin of {show(margin)}"
    word = "not shown to be kept: the interval reaches" if low <= margin else "lost: it lies"
    return f"{word} outside the margin of {show(margin)}"


def _change(base: float, change: float, teacher: float | None, goal: Goal) -> str:
    """A change that is clear, in words."""
    if goal == "teacher" and teacher is not None and teacher != base:
        share = change / (teacher - base)
        way = f"moved {_percent(share)} of the way from base to teacher"
        return "moved away from the teacher" if share < 0 else way
    if base == 0 or goal == "none":
        return f"changed by {_signed(change)}"
    word = "lower" if change < 0 else "higher"
    improved = {"low": change < 0, "high": change > 0}.get(goal)
    verdict = "" if improved is None else (", better" if improved else ", worse")
    return f"{_percent(abs(change / base))} {word} than the base{verdict}"


def show(value: float | None) -> str:
    """Three significant digits, no exponent for everyday sizes; a dash for what is not defined."""
    if value is None:
        return "\u2013"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{digits}f}".replace("-", "\u2212")
    return f"{value:.2e}".replace("-", "\u2212")


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as dotted names and texts."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", str(value)))
    return rows


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + show(value)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
