"""What of an artifact MLflow shows: params, curves, pictures and films, inputs, tags."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from afd.artifacts import Artifact, ArtifactRef, Manifest
from afd.evaluation.alarms import Name
from flows.decisions import lines

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

CURVES = "metrics.jsonl"
SUMMARY = "summary.json"
SHOWN = (".png", ".mp4", ".html")  # what MLflow's artifact view can show
MAX_SHOWN, MAX_SHOWN_BYTES = 24, 32 << 20  # a stage; these are samples, the store has them all


def summary(manifest: Manifest) -> dict[str, float]:
    """The numbers of the summary under <stage>/<quantity>."""
    return {
        f"{manifest.stage}/{name}": float(value)
        for name, value in manifest.summary.items()
        if isinstance(value, int | float)
    }


class Outside(NamedTuple):
    """What programs outside said of an evaluation, and how far to trust it."""

    metrics: dict[str, float]  # videos without a usable value, by metric
    tags: dict[str, str]  # each program's version or failure; which metrics are no judges


def outside(artifact: Artifact) -> Outside:
    """Of an evaluation that asked evaluators; empty for everything else."""
    if artifact.manifest.stage != "evaluate" or SUMMARY not in artifact.manifest.files:
        return Outside({}, {})
    told = json.loads(artifact.file(SUMMARY).read_text()).get("outside", {})
    failed: dict[str, float] = {}
    dependent: list[str] = []
    tags: dict[str, str] = {}
    for name, one in told.items():
        tags[f"afd.evaluator.{name}"] = one["error"] or str(one["version_told"] or one["version"])
        failed[f"evaluate/{name}.num_videos"] = float(one["num_videos"])
        for metric, said in one["metrics"].items():
            failed[f"evaluate/{name}.{metric}.num_failed"] = float(said["num_failed"])
            if said["independent"] is False:
                dependent.append(f"{name}.{metric}")
    if told:
        tags["afd.not_independent"] = ", ".join(dependent) or "none"
    return Outside(failed, tags)


def decision(record: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """What alarms decided after a round: `alarm/<name>` is 1 where it was raised, and tags."""
    raised = {one["name"] for one in record["alarms"]}
    metrics = {
        f"alarm/{name}": float(name in raised)
        for name in get_args(Name)
        if name not in record["unwatched"]
    }
    tags = {
        "afd.alarms": "; ".join(lines(record)) or "none",
        "afd.goes_on_from_round": str(record["starts_from"]),
        "afd.course": str(record["ends"]),
    }
    return metrics, tags


def curves(artifact: Artifact) -> list[tuple[str, float, int]]:
    """metrics.jsonl, whose keys are <stage>/<quantity>, as (key, value, step)."""
    if CURVES not in artifact.manifest.files:
        return []
    rows = map(json.loads, artifact.file(CURVES).read_text().splitlines())
    return [
        (str(name), float(value), int(row["step"]))
        for row in rows
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float)
    ]


def files(artifact: Artifact) -> list[str]:
    """The pictures, films and pages that are worth a copy in MLflow."""
    shown = [
        name
        for name, entry in artifact.manifest.files.items()
        if name.endswith(SHOWN) and entry.num_bytes <= MAX_SHOWN_BYTES
    ]
    return sorted(shown)[:MAX_SHOWN]


def inputs(
    made_from: Mapping[str, ArtifactRef], digests: Mapping[str, str]
) -> list["DatasetInput"]:
    """One dataset an artifact, its digest DVC's; an artifact with two roles names both."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    roles: dict[ArtifactRef, list[str]] = {}
    for role, ref in made_from.items():
        roles.setdefault(ref, []).append(role)
    return [
        DatasetInput(
            Dataset(
                name=f"{ref.kind} {ref.short}",
                digest=digests.get(ref.fingerprint, ref.fingerprint[:36]),
                source_type="dvc",
                source=json.dumps({"uri": f"store/{ref.kind}/{ref.fingerprint[:16]}"}),
            ),
            [InputTag("mlflow.data.context", ", ".join(played))],
        )
        for ref, played in roles.items()
    ]


def tags(manifest: Manifest, digests: Mapping[str, str]) -> dict[str, str]:
    """Where it stands, what it cost, which code made it."""
    return {
        "afd.fingerprint": manifest.fingerprint,
        "afd.dvc": digests.get(manifest.fingerprint, ""),
        "afd.wall_s": str(manifest.wall_s),
        "afd.cpu_s": str(manifest.cpu_s),
        "afd.dirty": str(manifest.made_by.is_dirty).lower(),
        "mlflow.source.git.commit": manifest.made_by.revision,
    }
