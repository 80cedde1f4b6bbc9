"""Held-out result of a campaign for its MLflow run: metrics, tags, a description."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from afd.artifacts import Artifact
from afd.evaluation import readings, targets
from afd.evaluation.intervals import interval_of
from afd.evaluation.metric_specs import metric_spec
from flows.markdown import literal

SUMMARY = "summary.json"
SIDES = {"final": "student", "base": "base", "teacher": "teacher", "difference": "difference"}


class Results(NamedTuple):
    """Arguments of `Tracking.log`."""

    metrics: dict[str, float]
    tags: dict[str, str]


def results(evaluation: Artifact) -> Results:
    """Return every metric of a final evaluation, and the verdict of every target.

    A value that is not defined is absent; a target that is not estimable has a tag alone.
    """
    summary = read_summary(evaluation)
    metrics: dict[str, float] = {}
    for name, row in summary["metrics"].items():
        low, high = interval_of(row, summary.get("num_prompts")) or (None, None)
        values = {side: row.get(key) for side, key in SIDES.items()}
        values |= {"difference_low": low, "difference_high": high}
        metrics |= {
            f"{side}/{name}": float(value)
            for side, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
    tags: dict[str, str] = {}
    for target in targets.verdicts(summary):
        tags[f"afd.target.{target.name}"] = target.verdict
        if target.verdict != "not estimable":
            metrics[f"target/{target.name}"] = float(target.verdict == "pass")
    return Results(metrics, tags)


def description(
    name: str, num_rounds: int, evaluation: Artifact, registered: tuple[str, int | None]
) -> str:
    """Return the campaign in words, as Markdown: the report's sentence, the table, the links."""
    from afd.evaluation.page import lead_sentence

    summary = read_summary(evaluation)
    rows = readings.rows(summary, summary.get("frechet_margin"))
    lines = [
        literal(lead_sentence(rows, int(summary["num_prompts"]), num_rounds)),
        "",
        "| held-out metric | teacher | base | student | in words |",
        "|---|---:|---:|---:|---|",
    ]
    for row in rows:
        spec = metric_spec(row.name)
        sides = [readings.show(value) for value in (row.teacher, row.base, row.student)]
        unit = f" ({spec.unit})" if spec.unit else ""
        cells = [f"{spec.title}{unit}", *sides, readings.read(row)]
        lines.append(f"| {' | '.join(map(literal, cells))} |")
    verdicts = literal(", ".join(f"{t.name}: {t.verdict}" for t in targets.verdicts(summary)))
    lines += ["", f"Targets: {verdicts}", ""]
    model, version = registered
    if version is not None:
        page = f"#/models/{model}/versions/{version}"
        lines.append(f"Model: [{literal(model)}, version {version}]({page}).")
    lines.append(
        f"Films, sentences and curves: report.html among the artifacts, `afd show {name}`."
    )
    return "\n".join(lines)


def opening(name: str, params: Mapping[str, Any]) -> str:
    """Return the description of a campaign that has no result yet."""
    teacher = params.get("teacher", {}).get("kind", "its")
    rounds = params.get("num_rounds", "?")
    return (
        f"{rounds} rounds against the {teacher} teacher. The held-out result comes with the end; "
        f"until then `afd status {name}` tells how far it is."
    )


def read_summary(evaluation: Artifact) -> Mapping[str, Any]:
    """Return the summary of an evaluation."""
    return json.loads(evaluation.file(SUMMARY).read_bytes())
