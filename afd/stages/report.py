"""Stage `report`: results of a campaign as one self-contained page, and its plots.

Reads the final evaluation's files and the manifests of each round's artifacts; computes nothing.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from afd.artifacts import Artifact
from afd.config import AlarmsParams
from afd.evaluation import figures, readings, targets
from afd.evaluation.alarm_policy import AlarmState, alarm_states, round_gauges
from afd.evaluation.figures import Curve
from afd.evaluation.metric_specs import Role, charts_of, metric_spec, spec_in_report
from afd.evaluation.page import Filmstrip, Report, lead_sentence, render
from afd.evaluation.readings import Row
from afd.runtime.workspace import Workspace
from afd.store import Store

PAGE = "report.html"
CURVES_PLOT, HEALTH_PLOT = "learning_curves.png", "discriminator_health.png"
HEALTH: tuple[Role, ...] = ("discriminator", "student")  # roles with gauges in their summaries
STEPS = "metrics.jsonl"
OUTCOMES = "outcomes.json"  # what harvest leaves of a teacher that may refuse
OF_STEPS = {"mismatch_pair_accuracy"}
MAX_FILM_BYTES = 8 << 20  # the page carries it in base64; a phone must still open it
_ROUND_ROLE = re.compile(r"(?P<role>[a-z_]+)_(?P<index>\d{3,})")


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Write report.html and two PNG plots. Raises KeyError where an input lacks a file."""
    evaluation = inputs["evaluation"]
    rounds = by_round(inputs)
    measured = json.loads(evaluation.file("summary.json").read_bytes())
    rows = report_rows(measured, float(params["evaluate"]["frechet_margin"]))
    curves = metric_curves(rows, rounds)
    health = health_curves(rounds)
    film = evaluation.manifest.files.get("samples.mp4")
    page = Report(
        title=f"{params['num_rounds']} rounds against the {params['teacher']['kind']} teacher",
        lead=lead_sentence(rows, int(measured["num_prompts"]), len(rounds)),
        rows=rows,
        targets=targets.verdicts(measured),
        curves=curves,
        health=[(curve, description) for curve, description in health],
        alarm_states=states_of(params, rounds),
        filmstrips=filmstrips(evaluation, measured),
        film=evaluation.file("samples.mp4").read_bytes()
        if film is not None and film.num_bytes <= MAX_FILM_BYTES
        else None,
        rounds=[
            {role: made[role].ref.fingerprint[:16] for role in sorted(made)} for made in rounds
        ],
        spent=spent(inputs, store),
        refusals=refusals(rounds),
        settings=readings.flatten(params),
        provenance=provenance(evaluation, inputs),
        card=readings.flatten(json.loads(evaluation.file("card.json").read_bytes())),
    )
    (work.out / PAGE).write_text(render(page), encoding="utf-8")
    (work.out / CURVES_PLOT).write_bytes(figures.png(curves))
    (work.out / HEALTH_PLOT).write_bytes(figures.png([curve for curve, _ in health]))
    return {
        "num_rounds": len(rounds),
        "num_metrics": len(rows),
        "num_filmstrips": len(page.filmstrips),
    }


def report_rows(measured: Mapping[str, Any], frechet_margin: float) -> list[Row]:
    """Return the rows of the table, with the directions that revision 2 of the report has."""
    return [
        row if metric_spec(row.name).in_report else replace(row, better="none")
        for row in readings.rows(measured, frechet_margin)
    ]


def by_round(inputs: Mapping[str, Artifact]) -> list[dict[str, Artifact]]:
    """Return role -> artifact for each round in order, from inputs named `<role>_<round>`."""
    found: dict[int, dict[str, Artifact]] = defaultdict(dict)
    for name, artifact in inputs.items():
        if matched := _ROUND_ROLE.fullmatch(name):
            found[int(matched["index"])][matched["role"]] = artifact
    return [found[index] for index in sorted(found)]


def metric_curves(rows: list[Row], rounds: list[dict[str, Artifact]]) -> list[Curve]:
    """Return a curve for each number of the rounds' evaluations, the table's metrics first."""
    levels = {
        row.name: {
            "teacher": None if metric_spec(row.name).is_appearance else row.teacher,
            "base": row.base,
        }
        for row in rows
    }
    series = _series(rounds, "evaluation")
    names = [name for name in levels if name in series]
    names += [name for name in series if name not in levels and not name.startswith("num_")]
    return [
        _curve(name, series[name], {k: v for k, v in levels.get(name, {}).items() if v is not None})
        for name in names
    ]


def health_curves(rounds: list[dict[str, Artifact]]) -> list[tuple[Curve, str]]:
    """Return the gauges of fit and update as curves, with their descriptions."""
    curves: list[tuple[Curve, str]] = []
    for role in HEALTH:
        series = _series(rounds, role) | _means_of_steps(rounds, role)
        curves += [
            (_curve(name, series[name], {}), metric_spec(name).description)
            for name in charts_of(role)
            if name in series
        ]
    return curves


def states_of(params: Mapping[str, Any], rounds: list[dict[str, Artifact]]) -> list[AlarmState]:
    """Return the alarms of each round and their actions, derived as in the campaign."""
    limits = AlarmsParams.model_validate(params.get("alarms", {}))
    summaries = [{role: made.manifest.summary for role, made in one.items()} for one in rounds]
    return alarm_states([round_gauges(one) for one in summaries], limits)


def filmstrips(evaluation: Artifact, measured: Mapping[str, Any]) -> list[Filmstrip]:
    """Return the images of filmstrips/ in order, with their prompts where the summary has them."""
    prompts = measured.get("filmstrip_prompts", [])
    names = [n for n in evaluation.manifest.files if re.fullmatch(r"filmstrips/\d+\.png", n)]
    ordered = sorted(names, key=lambda name: int(name.split("/")[1].removesuffix(".png")))
    return [
        Filmstrip(evaluation.file(name).read_bytes(), str(prompts[i]) if i < len(prompts) else "")
        for i, name in enumerate(ordered)
    ]


def refusals(rounds: list[dict[str, Artifact]]) -> list[tuple[str, int, int, int, int]]:
    """Return category, numbers of prompts, clips, refused inputs and refused outputs.

    Over all rounds, the most refused first; empty where no prompt was refused.
    """
    counts_of: dict[str, Counter[str]] = defaultdict(Counter)
    for made in rounds:
        clips = made.get("teacher_clips")
        if clips is not None and OUTCOMES in clips.manifest.files:
            for category, counts in json.loads(clips.file(OUTCOMES).read_bytes()).items():
                counts_of[category].update(counts)
    if not any(counts["refused_input"] + counts["refused_output"] for counts in counts_of.values()):
        return []
    rows = [
        (name, counts.total(), counts["clip"], counts["refused_input"], counts["refused_output"])
        for name, counts in counts_of.items()
    ]
    return sorted(rows, key=lambda row: (-(row[3] + row[4]) / row[1], row[0]))


def spent(inputs: Mapping[str, Artifact], store: Store) -> list[tuple[str, int, float, float]]:
    """Return stage, count, wall and CPU seconds over all artifacts behind the inputs."""
    seen: dict[str, Artifact] = {}
    waiting = list(inputs.values())
    while waiting:
        artifact = waiting.pop()
        if artifact.manifest.fingerprint not in seen:
            seen[artifact.manifest.fingerprint] = artifact
            waiting += [
                store.load(r) for r in artifact.manifest.made_from.values() if store.have(r)
            ]
    totals: dict[str, tuple[int, float, float]] = {}
    for artifact in seen.values():
        manifest = artifact.manifest
        count, wall_s, cpu_s = totals.get(manifest.stage, (0, 0.0, 0.0))
        totals[manifest.stage] = (count + 1, wall_s + manifest.wall_s, cpu_s + manifest.cpu_s)
    ordered = sorted(totals.items(), key=lambda item: (-item[1][1], item[0]))
    return [(stage, *total) for stage, total in ordered]


def provenance(evaluation: Artifact, inputs: Mapping[str, Artifact]) -> list[tuple[str, str]]:
    """Return the code, artifacts and packages behind the page."""
    makers = [artifact.manifest.made_by for artifact in inputs.values()]
    revisions = sorted({m.revision + (" + changes" if m.is_dirty else "") for m in makers})
    rows = [("code", ", ".join(revisions)), ("evaluation", evaluation.ref.fingerprint)]
    rows += [(role, ref.fingerprint) for role, ref in sorted(evaluation.manifest.made_from.items())]
    versions = evaluation.manifest.made_by.versions
    rows.append(("packages", ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))))
    rows.append(("evaluated", evaluation.manifest.created_at))
    return rows


def _series(rounds: list[dict[str, Artifact]], role: str) -> dict[str, list[tuple[int, float]]]:
    """Return name -> [(round, value)] of the numbers in the summaries of `role`."""
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for index, made in enumerate(rounds):
        summary = made[role].manifest.summary if role in made else {}
        for name, value in summary.items():
            if isinstance(value, int | float):
                series[name].append((index, float(value)))
    return dict(series)


def _means_of_steps(
    rounds: list[dict[str, Artifact]], role: str
) -> dict[str, list[tuple[int, float]]]:
    """Return name -> [(round, mean over its steps)] of gauges that only metrics.jsonl has."""
    counts_of: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for index, made in enumerate(rounds):
        if role not in made or STEPS not in made[role].manifest.files:
            continue
        values: dict[str, list[float]] = defaultdict(list)
        for row in map(json.loads, made[role].file(STEPS).read_text().splitlines()):
            for name, value in row.items():
                values[name.rpartition("/")[2]].append(float(value))
        for name in OF_STEPS & values.keys():
            counts_of[name].append((index, sum(values[name]) / len(values[name])))
    return dict(counts_of)


def _curve(name: str, points: list[tuple[int, float]], levels: dict[str, float]) -> Curve:
    spec = spec_in_report(name)
    return Curve(spec.title, spec.unit, points, levels)
