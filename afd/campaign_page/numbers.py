"""Numbers of a campaign page: curves over rounds and the rows of the results table."""

from collections.abc import Mapping, Sequence
from typing import Any

from afd.artifacts import Artifact
from afd.campaign_page.charts import Chart, Points
from afd.evaluation import readings, targets
from afd.evaluation.readings import Goal, Meaning, Row
from afd.evaluation.targets import Target

Round = Mapping[str, Artifact]  # role -> artifact

MIN_PROMPTS = 10  # below, resampled prompts are too few values for an interval
MAIN = "trajectory_error_px"
# Metrics of any film. Their definitions: afd/evaluation/general.py.
OF_ANY_FILM: Mapping[str, Meaning] = {
    "frame_change": Meaning(
        "Motion", "", "teacher", "mean change of a pixel from frame to frame, as share of white"
    ),
    "static_clip": Meaning("Still clips", "", "low", "share of clips in which nothing moves"),
    "repeated_frames": Meaning(
        "Repeated frames", "", "low", "share of frames that equal the one before"
    ),
    "brightness_flicker": Meaning(
        "Brightness flicker", "", "low", "how unevenly the mean brightness goes, share of white"
    ),
    "largest_jump": Meaning(
        "Largest jump", "times", "low",
        "the largest change between two frames over the usual one: a cut or a flash is high",
    ),
    "edge_sharpness": Meaning(
        "Edge sharpness", "", "base", "mean difference of neighbouring pixels, share of white"
    ),
    "sharpness_drift": Meaning(
        "Sharpness drift", "", "low",
        "sharpness of the last quarter over the first, minus 1: away from 0 it wanders",
    ),
    "exposure_drift": Meaning(
        "Exposure drift", "", "low",
        "change of mean brightness from the first quarter to the last, share of white",
    ),
    "colour_drift": Meaning(
        "Colour drift", "", "low", "change of the mean hue from the first quarter to the last"
    ),
}  # fmt: skip
GOALS: Mapping[Goal, str] = {
    "low": "lower is better",
    "high": "higher is better",
    "teacher": "the teacher\u2019s value is best",
    "base": "the base\u2019s value should stay",
    "none": "",
}
GAME: Sequence[tuple[str, str]] = (  # role, quantity of its summary; the first are drawn first
    ("discriminator", "margin"),
    ("student", "group_spread"),
    ("student", "rank_correlation"),
    ("student", "mean_score"),
    ("discriminator", "pair_accuracy"),
    ("discriminator", "anchor_pair_accuracy"),
    ("discriminator", "calibration_error"),
    ("discriminator", "leak_accuracy"),
    ("student", "zero_spread_share"),
    ("student", "effective_share"),
    ("student", "mean_abs_2w_minus_1"),
    ("student", "static_share"),
    ("student", "duplicate_share"),
    ("student", "distance_to_behaviour"),
    ("student", "distance_to_reference"),
    ("student", "loss"),
)


def meaning(name: str) -> Meaning:
    """Title, unit, direction and one line of a metric, also of those of any film."""
    return OF_ANY_FILM.get(name) or readings.meaning(name)


def goal_of(row: Row) -> str:
    """Return the good direction of a metric, in words; empty where it has none."""
    return GOALS[row.goal or meaning(row.name).goal]


def rows_of(measured: Mapping[str, Any], margin: float | None) -> list[Row]:
    """Return the results of an evaluation's summary; no interval under MIN_PROMPTS prompts."""
    margins = {"frechet_distance": margin}
    rows: list[Row] = []
    for name, values in measured["metrics"].items():
        count = values.get("num_prompts") or measured.get("num_prompts") or 0
        known = dict(values) | ({} if count >= MIN_PROMPTS else {"interval": None, "p_holm": None})
        goal = known.get("goal") or OF_ANY_FILM.get(name, readings.meaning(name)).goal
        rows.append(readings.row(name, known | {"goal": goal}, margins.get(name)))
    return rows


def in_words(row: Row, num_prompts: int) -> str:
    """One plain sentence about a row."""
    count = row.num_prompts or num_prompts
    if row.student is not None and row.base is not None and count < MIN_PROMPTS:
        some = "1 prompt" if count == 1 else f"{count} prompts"
        return f"{some}: too few for an interval, so nothing is claimed"
    return readings.read(row)


def targets_of(measured: Mapping[str, Any]) -> list[Target]:
    """Return the targets whose metrics exist in this world: films of rabbits have no gravity."""
    return [one for one in targets.judge(measured) if one.name in measured["metrics"]]


def held_out_charts(
    rounds: Sequence[Round],
    num_rounds: int,
    base: Mapping[str, float],
    teacher: Mapping[str, float],
) -> list[Chart]:
    """Every metric that the evaluations of the rounds share, the world's main one first."""
    found = _series(rounds, "evaluation")
    names = [name for name in found if not name.startswith("num_")]
    names.sort(key=lambda name: (name != MAIN, name not in base))
    charts: list[Chart] = []
    for name in names:
        about = meaning(name)
        levels = {"base": base[name]} if name in base else {}
        if name in teacher and not about.of_look:
            levels["teacher"] = teacher[name]
        description = "; ".join(filter(None, (about.says, GOALS[about.goal])))
        charts.append(
            Chart(about.title, about.unit, description, found[name], levels, num_rounds=num_rounds)
        )
    return charts


def game_charts(rounds: Sequence[Round], num_rounds: int) -> list[Chart]:
    """Return the quantities of fit and update; a second line is the same before the fit."""
    found = {role: _series(rounds, role) for role in ("discriminator", "student")}
    charts: list[Chart] = []
    for role, name in GAME:
        if name not in found[role]:
            continue
        about = readings.meaning(name)
        before = found[role].get(f"{name}_before", [])
        legend = ("after the fit", "before it, on unseen pairs") if before else ("", "")
        points = found[role][name]
        charts.append(
            Chart(about.title, about.unit, about.says, points, {}, before, legend, num_rounds)
        )
    return charts


def levels_of(measured: Mapping[str, Any], side: str) -> dict[str, float]:
    """Metric -> its value for base or teacher, where the evaluation has one."""
    values = {name: row.get(side) for name, row in measured.get("metrics", {}).items()}
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float)}


def _series(rounds: Sequence[Round], role: str) -> dict[str, Points]:
    """Name -> [(round, value)] of the numbers in the summaries of `role`."""
    found: dict[str, list[tuple[int, float]]] = {}
    for index, made in enumerate(rounds):
        summary = made[role].manifest.summary if role in made else {}
        for name, value in summary.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, []).append((index, float(value)))
    return dict(found)
