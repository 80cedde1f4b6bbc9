"""Numbers of a campaign page: curves over rounds and the rows of the results table."""

from collections.abc import Mapping, Sequence
from typing import Any

from afd.artifacts import Artifact
from afd.campaign_page.charts import Chart, Points
from afd.evaluation import targets
from afd.evaluation.metric_specs import SPECS, TRAJECTORY_ERROR, Direction, Role, metric_spec
from afd.evaluation.readings import Row
from afd.evaluation.targets import Target

Round = Mapping[str, Artifact]  # role -> artifact

DIRECTIONS: Mapping[Direction, str] = {
    "low": "lower is better",
    "high": "higher is better",
    "teacher": "the teacher\u2019s value is best",
    "base": "the base\u2019s value should stay",
    "none": "",
}
GAME = (  # the first are drawn first
    "margin", "group_spread", "rank_correlation", "mean_score", "pair_accuracy",
    "anchor_pair_accuracy", "calibration_error", "leak_accuracy", "zero_spread_share",
    "effective_share", "mean_abs_2w_minus_1", "static_share", "duplicate_share",
    "distance_to_behaviour", "distance_to_reference", "loss",
)  # fmt: skip


def direction(row: Row) -> str:
    """Return the good direction of a metric, in words; empty where it has none."""
    return DIRECTIONS[row.better or metric_spec(row.name).better]


def targets_of(measured: Mapping[str, Any]) -> list[Target]:
    """Return the targets whose metrics exist in this world: films of rabbits have no gravity."""
    return [one for one in targets.verdicts(measured) if one.name in measured["metrics"]]


def held_out_charts(
    rounds: Sequence[Round],
    num_rounds: int,
    base: Mapping[str, float],
    teacher: Mapping[str, float],
) -> list[Chart]:
    """Every metric that the evaluations of the rounds share, the world's main one first."""
    found = _series(rounds, "evaluation")
    names = [name for name in found if not name.startswith("num_")]
    names.sort(key=lambda name: (name != TRAJECTORY_ERROR, name not in base))
    charts: list[Chart] = []
    for name in names:
        spec = metric_spec(name)
        levels = {"base": base[name]} if name in base else {}
        if name in teacher and not spec.is_appearance:
            levels["teacher"] = teacher[name]
        description = "; ".join(filter(None, (spec.description, DIRECTIONS[spec.better])))
        charts.append(
            Chart(spec.title, spec.unit, description, found[name], levels, num_rounds=num_rounds)
        )
    return charts


def game_charts(rounds: Sequence[Round], num_rounds: int) -> list[Chart]:
    """Return the quantities of fit and update; a second line is the same before the fit."""
    found: dict[Role, dict[str, Points]] = {
        "discriminator": _series(rounds, "discriminator"),
        "student": _series(rounds, "student"),
    }
    charts: list[Chart] = []
    for name in GAME:
        spec = SPECS[name]
        series = found[spec.role]
        if name not in series:
            continue
        before = series.get(f"{name}_before", [])
        legend = ("after the fit", "before it, on unseen pairs") if before else ("", "")
        points = series[name]
        charts.append(
            Chart(spec.title, spec.unit, spec.description, points, {}, before, legend, num_rounds)
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
