"""MLflow runs of a campaign as a pure function of its folder and its store.

Each function returns a Record: runs that shall exist, their content and their states. Equal files
give equal records. The time of a metric follows from its artifact and its step, so that a record
written twice leaves the same rows.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, get_args

from afd.artifacts import Artifact, ArtifactRef, Manifest
from afd.evaluation.alarms import Name
from afd.evaluation.readings import flatten
from afd.runtime.request import StageRequest
from afd.runtime.stage_specs import STAGES
from flows.alarm_log import lines
from flows.markdown import literal_block
from flows.mlflow_runs import results
from flows.mlflow_runs.client import Point
from flows.mlflow_runs.experiment import NOTE
from flows.mlflow_runs.facts import BegunStage
from flows.mlflow_runs.records import Content, Record, Row, Run, RunStatus, Version
from flows.mlflow_runs.run_ids import CAMPAIGN, CampaignEnding, round_key, stage_key

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

ENDED: Mapping[CampaignEnding, RunStatus] = {
    "finished": "FINISHED",
    "paused": "SCHEDULED",
    "failed": "FAILED",
    "killed": "KILLED",
}
CURVES, SHEET = "metrics.jsonl", "sheet.png"  # the sheet: clips of the evaluated student
VIEWABLE = (".png", ".mp4", ".html")  # in MLflow's artifact view
MAX_FILES, MAX_FILE_BYTES = 24, 32 << 20  # a stage; these are samples, the store has them all


def campaign_run(name: str, at_ms: int) -> Run:
    """Return the campaign's run."""
    tags = {"afd.level": "campaign", "afd.state": "running"}
    return Run(CAMPAIGN, name, at_ms, tags, parent=None)


def resumed() -> Record:
    """Return a campaign that computes again."""
    content = Content(CAMPAIGN, tags={"afd.state": "running"})
    return Record(CAMPAIGN, (), [content], [(CAMPAIGN, "RUNNING", 0)])


def begun_stage(begun: BegunStage) -> Record:
    """Return a stage that computes, and its round."""
    runs = _runs(begun.stage, begun.ref, begun.round_index, begun.began_ms)
    return Record(stage_key(begun.ref), runs, (), [(run.key, "RUNNING", 0) for run in runs])


def failed_stage(begun: BegunStage, at_ms: int) -> Record:
    """Return an attempt that left no artifact."""
    key = stage_key(begun.ref)
    runs = _runs(begun.stage, begun.ref, begun.round_index, begun.began_ms)
    content = Content(key, tags={"afd.outcome": begun.outcome, NOTE: literal_block(begun.message)})
    notes = {"failed_ms": begun.began_ms}
    return Record(key, runs, [content], [(key, "FAILED", at_ms)], notes=notes)


def finished_stage(
    artifact: Artifact, index: int | None, began_ms: int | None, digests: Mapping[str, str]
) -> Record:
    """Return an artifact in its own run, its round's and the campaign's.

    `digests`: fingerprint -> DVC's md5, of the artifact and its inputs.
    """
    ref, manifest = artifact.ref, artifact.manifest
    key, ended, dvc = stage_key(ref), ended_ms(manifest), digests.get(ref.fingerprint, "")
    has_curve = CURVES in manifest.files
    rows = rows_of(artifact.file(CURVES).read_bytes()) if has_curve else []
    summary, renamed = _summary(manifest, frozenset(name for name, _, _ in rows))
    failed, marks = _external(artifact)
    commit = {
        "mlflow.source.git.commit": manifest.made_by.revision,
        "afd.dirty": str(manifest.made_by.is_dirty).lower(),
    }
    cost = {"afd.wall_s": str(manifest.wall_s), "afd.cpu_s": str(manifest.cpu_s)}
    is_evaluation = manifest.stage == "evaluate" and index is not None
    student = manifest.made_from.get("student") if is_evaluation else None
    viewable = _viewable(manifest)
    own = Content(
        key,
        _points(summary | failed, 0, ended),
        dict(flatten(manifest.params)),
        {"afd.fingerprint": ref.fingerprint, "afd.dvc": dvc, **cost, **commit, **marks},
        student,
        rows,
        _inputs(manifest.made_from, digests),
        viewable,
        artifact.path,
    )
    contents = [own]
    spec = STAGES.get(manifest.stage)  # none: a stage of another version
    numbers, tags = summary | failed | renamed, commit | marks
    is_result = manifest.stage in ("evaluate", "report") and "horizon" not in manifest.params
    picture = None
    if index is not None:
        if is_result and SHEET in manifest.files:
            picture = (index, artifact.file(SHEET), ended)
        contents.append(Content(round_key(index), _points(numbers, 0, ended), picture=picture))
    if index is not None and spec is not None and spec.is_series:
        points = _points(numbers, index, ended)
        contents.append(Content(CAMPAIGN, points, tags=tags, picture=picture))
    elif marks or manifest.stage == "prompts":  # how far to trust numbers stands beside them
        contents.append(Content(CAMPAIGN, tags=tags))
    if index is None and is_result:
        contents.append(Content(CAMPAIGN, files=viewable, folder=artifact.path))
    began = ended - round(manifest.wall_s * 1000) if began_ms is None else began_ms
    family = str(manifest.params.get("student", {}).get("family", "student"))
    return Record(
        key,
        _runs(manifest.stage, ref, index, began),
        contents,
        [(key, "FINISHED", ended)],
        Version(ref, index, family, dvc) if _makes_student(manifest) else None,
        student,
        manifest.summary,
    )


def finished_round(index: int, ended: int, decisions: Sequence[Mapping[str, Any]]) -> Record:
    """Return a round whose stages are recorded, with the decisions of its alarms.

    `z_alarm/<name>` is 1 where the alarm was raised, absent where it had nothing to watch. The
    prefix puts these charts behind all others.
    """
    key, contents = round_key(index), list[Content]()
    for record in decisions:
        raised = {one["name"] for one in record["alarms"]}
        watched = [name for name in get_args(Name) if name not in record["unwatched"]]
        metrics = {f"z_alarm/{name}": float(name in raised) for name in watched}
        tags = {
            "afd.alarms": "; ".join(lines(record)) or "none",
            "afd.goes_on_from_round": str(record["starts_from"]),
            "afd.course": str(record["ends"]),
        }
        for run, step in ((key, 0), (CAMPAIGN, index)):
            contents.append(Content(run, _points(metrics, step, ended), tags=tags))
    return Record(key, [_round_run(index, ended)], contents, [(key, "FINISHED", ended)])


def held_out_result(
    name: str, evaluation: Artifact, num_rounds: int, model: tuple[str, int | None]
) -> Record:
    """Return the held-out result on the campaign's run and on the version of its student.

    `model`: the registered model, and that version.
    """
    ref, manifest = evaluation.ref, evaluation.manifest
    metrics, tags = results.results(evaluation)
    points = _points(metrics, 0, ended_ms(manifest))
    words = results.description(name, num_rounds, evaluation, model)
    contents = [Content(CAMPAIGN, points, tags=tags | {NOTE: words})]
    if model[1] is not None:
        student = manifest.made_from["student"]
        contents.append(Content(stage_key(ref), points, model_of=student))
    return Record(CAMPAIGN, (), contents, notes={"final": ref.fingerprint})


def ended_campaign(status: CampaignEnding, at_ms: int, is_stopped: bool) -> Record:
    """Return a campaign whose process ends; `is_stopped`: by an alarm."""
    tags = {"afd.state": status}
    if status == "finished" and not is_stopped:
        tags["afd.course"] = "finished"
    content = Content(CAMPAIGN, tags=tags)
    return Record(CAMPAIGN, (), [content], [(CAMPAIGN, ENDED[status], at_ms)])


def ended_ms(manifest: Manifest) -> int:
    """Return the time at which an artifact was finished."""
    return round(datetime.fromisoformat(manifest.created_at).timestamp() * 1000)


def rows_of(content: bytes, after: int = -1) -> list[Row]:
    """Return whole lines of a metrics.jsonl, of steps after `after`, as (key, value, step).

    Steps only grow, so the search from the end stops at the first known one.
    """
    found: list[Row] = []
    for line in reversed(content.splitlines(keepends=True)):
        if line.endswith(b"\n"):  # else it is being written
            row = json.loads(line)
            step = int(row.pop("step"))
            if step <= after:
                break
            numbers = {k: float(v) for k, v in row.items() if isinstance(v, int | float)}
            found += [(name, value, step) for name, value in numbers.items()]
    return found[::-1]


def _runs(stage: str, ref: ArtifactRef, index: int | None, at_ms: int) -> list[Run]:
    """Return the run of a stage, after that of its round."""
    tags = {
        "afd.level": "stage",
        "afd.stage": stage,
        "afd.artifact": f"{ref.kind}/{ref.fingerprint[:16]}",
    }
    if index is None:
        return [Run(stage_key(ref), stage, at_ms, tags)]
    tags["afd.round"] = str(index)
    own = Run(stage_key(ref), f"{stage} {index}", at_ms, tags, round_key(index))
    return [_round_run(index, at_ms), own]


def _round_run(index: int, at_ms: int) -> Run:
    tags = {"afd.level": "round", "afd.round": str(index)}
    return Run(round_key(index), f"round {index}", at_ms, tags)


def _points(values: Mapping[str, float], step: int, at_ms: int) -> list[Point]:
    return [Point(name, value, step, at_ms) for name, value in values.items()]


def _summary(
    manifest: Manifest, curve_names: frozenset[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the numbers of the summary under <stage>/<quantity>, and those that were renamed.

    A quantity with a curve is `<stage>/final_<quantity>`: no key means two things. The second dict
    has the names of 0.1, which rounds and campaigns carry for one release more.
    """
    found: dict[str, float] = {}
    renamed: dict[str, float] = {}
    for name, value in manifest.summary.items():
        key = f"{manifest.stage}/{name}"
        if isinstance(value, int | float) and key in curve_names:
            found[f"{manifest.stage}/final_{name}"] = renamed[key] = float(value)
        elif isinstance(value, int | float):
            found[key] = float(value)
    return found, renamed


def _external(artifact: Artifact) -> tuple[dict[str, float], dict[str, str]]:
    """Return what external evaluators failed to rate, by metric, and how far to trust them.

    The tags have each program's version or failure, and the metrics that are not independent of
    the training. Both are empty for a stage without external evaluators.
    """
    failed: dict[str, float] = {}
    tags: dict[str, str] = {}
    if artifact.manifest.stage != "evaluate" or results.SUMMARY not in artifact.manifest.files:
        return failed, tags
    dependent: list[str] = []
    found = results.read_summary(artifact).get("outside", {})
    for name, one in found.items():
        tags[f"afd.evaluator.{name}"] = (
            one["error"] or one.get("remarks") or str(one["version_told"] or one["version"])
        )
        failed[f"evaluate/{name}.num_videos"] = float(one["num_videos"])
        for metric, result in one["metrics"].items():
            failed[f"evaluate/{name}.{metric}.num_failed"] = float(result["num_failed"])
            if result["independent"] is False:
                dependent.append(f"{name}.{metric}")
    if found:
        tags["afd.not_independent"] = ", ".join(dependent) or "none"
    return failed, tags


def _viewable(manifest: Manifest) -> list[str]:
    """Return the pictures, videos and pages to copy into MLflow."""
    files = manifest.files.items()
    small = [name for name, entry in files if entry.num_bytes <= MAX_FILE_BYTES]
    return sorted(name for name in small if name.endswith(VIEWABLE))[:MAX_FILES]


def _inputs(
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


def _makes_student(manifest: Manifest) -> bool:
    content = {"stage": manifest.stage, "params": manifest.params, "inputs": manifest.made_from}
    return StageRequest.model_validate(content).makes_student
