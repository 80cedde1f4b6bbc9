"""Views of an artifact in MLflow: metrics, curves, pictures and films, inputs, tags."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from afd.artifacts import Artifact, ArtifactRef, Manifest
from afd.evaluation.alarms import Name
from flows.alarm_log import lines

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

CURVES = "metrics.jsonl"
SUMMARY = "summary.json"
VIEWABLE = (".png", ".mp4", ".html")  # in MLflow's artifact view
Row = tuple[str, float, int]  # of a curve: key, value, step
MAX_FILES, MAX_FILE_BYTES = 24, 32 << 20  # a stage; these are samples, the store has them all


def summary(
    manifest: Manifest, curve_names: frozenset[str] = frozenset()
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the numbers of the summary under <stage>/<quantity>, and those that were renamed.

    A quantity of which there is a curve too is `<stage>/final_<quantity>`: no key means two things.
    The second dict has the names of 0.1, which rounds and campaigns carry for one release more.
    """
    found: dict[str, float] = {}
    renamed: dict[str, float] = {}
    for name, value in manifest.summary.items():
        if isinstance(value, int | float):
            key = f"{manifest.stage}/{name}"
            has_curve = key in curve_names
            found[f"{manifest.stage}/final_{name}" if has_curve else key] = float(value)
            if has_curve:
                renamed[key] = float(value)
    return found, renamed


class Outside(NamedTuple):
    """Results of external evaluators, and how far to trust them."""

    metrics: dict[str, float]  # videos without a usable value, by metric
    tags: dict[str, str]  # each program's version or failure; which metrics are no judges


def outside(artifact: Artifact) -> Outside:
    """Return the results of external evaluators; empty for a stage without them."""
    if artifact.manifest.stage != "evaluate" or SUMMARY not in artifact.manifest.files:
        return Outside({}, {})
    results = json.loads(artifact.file(SUMMARY).read_text()).get("outside", {})
    failed: dict[str, float] = {}
    dependent: list[str] = []
    tags: dict[str, str] = {}
    for name, one in results.items():
        tags[f"afd.evaluator.{name}"] = one["error"] or str(one["version_told"] or one["version"])
        failed[f"evaluate/{name}.num_videos"] = float(one["num_videos"])
        for metric, result in one["metrics"].items():
            failed[f"evaluate/{name}.{metric}.num_failed"] = float(result["num_failed"])
            if result["independent"] is False:
                dependent.append(f"{name}.{metric}")
    if results:
        tags["afd.not_independent"] = ", ".join(dependent) or "none"
    return Outside(failed, tags)


def decision(record: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Return the metrics and tags of what alarms decided after a round.

    `z_alarm/<name>` is 1 where it was raised, absent where it had nothing to watch; the prefix puts
    these charts behind all others.
    """
    raised = {one["name"] for one in record["alarms"]}
    metrics = {
        f"z_alarm/{name}": float(name in raised)
        for name in get_args(Name)
        if name not in record["unwatched"]
    }
    tags = {
        "afd.alarms": "; ".join(lines(record)) or "none",
        "afd.goes_on_from_round": str(record["starts_from"]),
        "afd.course": str(record["ends"]),
    }
    return metrics, tags


def curves(artifact: Artifact) -> list[Row]:
    """Return metrics.jsonl, whose keys are <stage>/<quantity>, as (key, value, step)."""
    if CURVES not in artifact.manifest.files:
        return []
    return rows_of(artifact.file(CURVES).read_bytes().splitlines(keepends=True))


def rows_of(lines: Iterable[bytes]) -> list[Row]:
    """Return whole lines of a metrics.jsonl as (key, value, step)."""
    rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [
        (str(name), float(value), int(row["step"]))
        for row in rows
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float)
    ]


class GrowingCurve:
    """The metrics.jsonl of a stage that runs, in the folder of its latest attempt."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._file: Path | None = None
        self._end = 0  # of what was read

    def has_grown(self) -> bool:
        """Return whether there is something that `read` has not given yet."""
        found = sorted(self._work.glob(f"attempts/[0-9]*/out/{CURVES}"))
        if not found:
            return False
        latest = found[-1]
        if latest != self._file:
            self._file, self._end = latest, 0
        try:
            return latest.stat().st_size > self._end
        except FileNotFoundError:  # published, or overtaken by another attempt
            return False

    def read(self) -> list[Row]:
        """Return the rows that came since; a line that is being written comes the next time."""
        if self._file is None:
            return []
        try:
            with self._file.open("rb") as file:
                file.seek(self._end)
                lines = [line for line in file if line.endswith(b"\n")]
        except FileNotFoundError:
            return []
        self._end += sum(map(len, lines))
        return rows_of(lines)


def files(artifact: Artifact) -> list[str]:
    """Return the pictures, videos and pages to copy into MLflow."""
    viewable = [
        name
        for name, entry in artifact.manifest.files.items()
        if name.endswith(VIEWABLE) and entry.num_bytes <= MAX_FILE_BYTES
    ]
    return sorted(viewable)[:MAX_FILES]


def inputs(
    made_from: Mapping[str, ArtifactRef], digests: Mapping[str, str]
) -> list["DatasetInput"]:
    """Return one dataset an artifact, its digest DVC's; an artifact with two roles names both."""
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
    """Return the tags of an artifact: its hashes, its cost, the commit that made it."""
    return {
        "afd.fingerprint": manifest.fingerprint,
        "afd.dvc": digests.get(manifest.fingerprint, ""),
        "afd.wall_s": str(manifest.wall_s),
        "afd.cpu_s": str(manifest.cpu_s),
        "afd.dirty": str(manifest.made_by.is_dirty).lower(),
        "mlflow.source.git.commit": manifest.made_by.revision,
    }
