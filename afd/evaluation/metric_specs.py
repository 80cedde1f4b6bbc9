"""Table of the metrics: one row each, read by terminal, report, pages, MLflow and comparisons.

A metric of an external evaluator has no row: its params give its direction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["low", "high", "teacher", "base", "none"]
Role = Literal["evaluation", "discriminator", "student"]

TRAJECTORY_ERROR = "trajectory_error_px"  # decides between students
GRAVITY = "gravity"
OBJECT_PERMANENCE = "object_permanence"
INTERPENETRATION = "interpenetration"
FRECHET_DISTANCE = "frechet_distance"


@dataclass(frozen=True)
class Tolerance:
    """Allowed change on another kind of CPU: `absolute` + `share` of the committed number."""

    absolute: float
    share: float = 0.0

    def allowed(self, committed: float | None) -> float:
        if committed is None or not math.isfinite(committed):
            return self.absolute
        return self.absolute + self.share * abs(committed)

    def __str__(self) -> str:
        share = f" + {self.share:.0%} of it" if self.share else ""
        return f"{self.absolute:g}{share}"


@dataclass(frozen=True)
class MetricSpec:
    """A metric for a reader. `better`: the direction, or the side whose value is best."""

    key: str  # in summaries, tables and MLflow
    title: str
    unit: str
    better: Direction
    description: str
    role: Role = "evaluation"  # artifact of a round whose summary has the metric
    is_short: bool = False  # in one-line summaries and in the curves of the ablations
    tolerance: Tolerance | None = None  # metrics of the ablations' tables have one
    is_appearance: bool = False  # the teacher looks different by construction: no level to reach
    in_report: bool = True  # revision 2 of the report has no title for the others


# Tolerances are from 58 cells, Intel against AMD (docs/lab-notes.md): all but one lie within, and
# that one, a discriminator at too high a learning rate, does not converge. The look's distance
# spans three orders of size, so a share of it is allowed on top.
_POCKET = (
    MetricSpec(
        TRAJECTORY_ERROR, "Trajectory error", "px", "low",
        "distance from where the teacher's laws take the balls",
        is_short=True, tolerance=Tolerance(0.25),
    ),
    MetricSpec(
        GRAVITY, "Gravity", "px/frame²", "teacher",
        "downward acceleration before the first contact",
        is_short=True, tolerance=Tolerance(0.015),
    ),
    MetricSpec(
        "gravity_free_fit", "Gravity, free fit", "px/frame²", "teacher",
        "the same with the start speed fitted too",
    ),
    MetricSpec(
        OBJECT_PERMANENCE, "Object permanence", "", "high",
        "share of balls, frame by frame, that are still there",
        is_short=True, tolerance=Tolerance(0.03),
    ),
    MetricSpec(
        INTERPENETRATION, "Interpenetration", "", "low",
        "share of meeting scenes in which balls pass through each other",
        is_short=True, tolerance=Tolerance(0.35),
    ),
    MetricSpec("bounce", "Bounce", "", "teacher", "speed after a bounce over speed before it"),
    MetricSpec(
        "motion", "Motion", "px/frame", "teacher", "mean speed of the balls",
        tolerance=Tolerance(0.07),
    ),
    MetricSpec(
        "sharpness", "Sharpness", "", "base",
        "edge strength; the look should stay the base's",
        tolerance=Tolerance(0.01), is_appearance=True,
    ),
    MetricSpec(
        "flicker", "Flicker", "", "low", "grain and pumping brightness of the ground",
        is_appearance=True,
    ),
    MetricSpec(
        FRECHET_DISTANCE, "Fréchet distance", "", "low",
        "distance from the base's own look; small means kept",
        is_short=True, tolerance=Tolerance(0.1, share=0.1), is_appearance=True,
    ),
)  # fmt: skip
# Definitions: afd/evaluation/metrics/general.py.
_ANY_VIDEO = (
    MetricSpec(
        "frame_change", "Motion", "", "teacher",
        "mean change of a pixel from frame to frame, as share of white", in_report=False,
    ),
    MetricSpec(
        "static_clip", "Still clips", "", "low", "share of clips in which nothing moves",
        in_report=False,
    ),
    MetricSpec(
        "repeated_frames", "Repeated frames", "", "low",
        "share of frames that equal the one before", in_report=False,
    ),
    MetricSpec(
        "brightness_flicker", "Brightness flicker", "", "low",
        "how unevenly the mean brightness goes, share of white", in_report=False,
    ),
    MetricSpec(
        "largest_jump", "Largest jump", "times", "low",
        "the largest change between two frames over the usual one: a cut or a flash is high",
        in_report=False,
    ),
    MetricSpec(
        "edge_sharpness", "Edge sharpness", "", "base",
        "mean difference of neighbouring pixels, share of white", in_report=False,
    ),
    MetricSpec(
        "sharpness_drift", "Sharpness drift", "", "low",
        "sharpness of the last quarter over the first, minus 1: away from 0 it wanders",
        in_report=False,
    ),
    MetricSpec(
        "exposure_drift", "Exposure drift", "", "low",
        "change of mean brightness from the first quarter to the last, share of white",
        in_report=False,
    ),
    MetricSpec(
        "colour_drift", "Colour drift", "", "low",
        "change of the mean hue from the first quarter to the last", in_report=False,
    ),
)  # fmt: skip
# In the order of the report's charts.
_SIGNAL = (
    MetricSpec(
        "pair_accuracy_before", "Held-out accuracy", "", "none",
        "the same before the fit, on pairs it had never seen", "discriminator",
    ),
    MetricSpec(
        "pair_accuracy", "Pair accuracy", "", "none",
        "share of pairs in which the teacher outscores the student", "discriminator",
    ),
    MetricSpec(
        "anchor_pair_accuracy", "Frozen-anchor accuracy", "", "none",
        "on the first round's pairs, which never change: falling means that the discriminator "
        "forgets", "discriminator",
    ),
    MetricSpec(
        "mismatch_pair_accuracy", "Matching accuracy", "", "none",
        "share of teacher clips scored higher under their own prompt than under another's",
        "discriminator",
    ),
    MetricSpec(
        "margin_before", "Held-out margin", "", "none",
        "the same before the fit, on pairs it had never seen", "discriminator",
    ),
    MetricSpec(
        "margin", "Margin", "", "none", "mean score of teacher minus student", "discriminator",
    ),
    MetricSpec(
        "calibration_error_before", "Held-out calibration", "", "none",
        "the same before the fit: high means it is sure where it has not looked yet",
        "discriminator",
    ),
    MetricSpec(
        "calibration_error", "Calibration error", "", "none",
        "how far its claimed certainty is from how often it is right, 0 to 1", "discriminator",
    ),
    MetricSpec(
        "group_spread_before", "Spread before", "", "none",
        "of scores inside groups, by the discriminator before its fit", "discriminator",
    ),
    MetricSpec(
        "leak_accuracy", "Leak probe", "", "none",
        "how often traces of compression alone name the side; 0.5 is chance. A teacher that looks "
        "different is named by its look: there 1 is no fault of the path", "discriminator",
    ),
    MetricSpec(
        "rank_correlation", "Rank correlation", "", "high",
        "inside groups, of the score with the trajectory error that it never saw: 0 selects by "
        "chance, below 0 it selects the worse", "student",
    ),
    MetricSpec(
        "group_spread", "Spread inside groups", "", "none",
        "what the advantage selects on; 0 teaches nothing", "student",
    ),
    MetricSpec(
        "zero_spread_share", "Zero-spread groups", "", "none",
        "share of groups whose scores are alike: they teach nothing", "student",
    ),
    MetricSpec(
        "effective_share", "Effective sample size", "", "none",
        "share of the rollouts that carry the update: 1 when all pull alike", "student",
    ),
    MetricSpec(
        "mean_abs_2w_minus_1", "|2w \u2212 1|", "", "none",
        "strength of the update's signal, 0 to 1", "student",
    ),
    MetricSpec(
        "static_share", "Still rollouts", "", "low", "share in which nothing moves", "student",
    ),
    MetricSpec(
        "duplicate_share", "Repeated rollouts", "", "low",
        "share that looks like an earlier one of its group", "student",
    ),
    MetricSpec(
        "distance_to_behaviour", "Distance to v_old", "", "none",
        "velocity distance from the student that rolled out", "student",
    ),
    MetricSpec(
        "distance_to_reference", "Distance to v_ref", "", "none",
        "velocity distance from the student before any round", "student",
    ),
    MetricSpec(
        "mean_score", "Mean score", "", "none", "of the round's rollouts", "student",
        in_report=False,
    ),
    MetricSpec("loss", "Loss", "", "none", "", "student", in_report=False),
)  # fmt: skip
SPECS: Mapping[str, MetricSpec] = {spec.key: spec for spec in (*_POCKET, *_ANY_VIDEO, *_SIGNAL)}
SHORT = tuple(spec.key for spec in SPECS.values() if spec.is_short)
TOLERANCES: Mapping[str, Tolerance] = {
    spec.key: spec.tolerance for spec in SPECS.values() if spec.tolerance is not None
}


def metric_spec(key: str) -> MetricSpec:
    """Return the row of a metric; an unknown one has its own key as the title."""
    return SPECS.get(key) or _of_key(key)


def spec_in_report(key: str) -> MetricSpec:
    """Return the row as revision 2 of the report has it: equal params give equal bytes."""
    spec = metric_spec(key)
    return spec if spec.in_report else _of_key(key)


def charts_of(role: Role) -> list[str]:
    """Return the keys of the report's charts for one artifact of a round."""
    return [spec.key for spec in SPECS.values() if spec.role == role and spec.in_report]


def _of_key(key: str) -> MetricSpec:
    plain = key.replace("_", " ").replace(".", ": ")
    return MetricSpec(key, plain[:1].upper() + plain[1:], "", "none", "")
