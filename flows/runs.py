"""One campaign's runs in MLflow, written by MlflowClient and never by its fluent, global state.

Whatever is written can be written again: run ids come from disk, metrics carry the artifact's own
times, so a replay lands on the same rows. Parents are made when a child needs them, so events may
arrive late, twice or without their predecessors.
"""

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from afd.artifacts import Artifact, ArtifactRef, Manifest
from afd.stages.request import StageRequest
from flows.champion import choose_champion
from flows.events import (
    CampaignFinished,
    CampaignStarted,
    Event,
    RoundFinished,
    RoundStarted,
    StageDone,
    StageFailed,
    StageStarted,
    Swept,
)
from flows.run_ids import CAMPAIGN, RunIds, round_key, stage_key

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "afd"
CHAMPION = "champion"
CURVES = "metrics.jsonl"
SHOWN = (".png", ".mp4", ".html")  # what MLflow's artifact view can show
MAX_SHOWN, MAX_SHOWN_BYTES = 24, 32 << 20  # a stage; MLflow shows samples, the store has them all
MAX_VALUE = 6000  # MLflow's limit of a param's value
BATCH = 100  # MLflow's limit of params and of tags in one call
METRICS_BATCH = 1000
RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Unavailable(RuntimeError):
    """MLflow itself does not answer; nothing is wrong with what was to be written."""


class Campaign:
    """Applies events to MLflow. Not thread-safe; lineage gives it one thread."""

    def __init__(self, tracking_uri: str, name: str, ids: RunIds) -> None:
        self.tracking_uri = tracking_uri
        self.name = name
        self.ids = ids
        self._connection: tuple[MlflowClient, str] | None = None

    def apply(self, event: Event) -> None:
        """Write one event; raises Unavailable, or what MLflow says about this event."""
        match event:
            case CampaignStarted():
                self._start_campaign(event)
            case CampaignFinished():
                self._finish_campaign(event)
            case RoundStarted():
                self._round_run(event.round_index, event.at_ms)
                self._resume(round_key(event.round_index), event.at_ms)
            case RoundFinished():
                self._round_run(event.round_index, event.at_ms)
                self._end(round_key(event.round_index), "FINISHED", event.at_ms)
            case StageStarted():
                key = stage_key(event.request.output)
                if not self.ids.is_finished(key):
                    self._stage_run(event.round_index, event.request, event.at_ms)
                    self._resume(key, event.at_ms)
            case StageDone():
                self._record(event)
            case StageFailed():
                self._fail(event)
            case Swept():
                self._sweep(event.at_ms)

    # ------------------------------------------------------------------ runs

    def _start_campaign(self, event: CampaignStarted) -> None:
        known = self.ids.read(CAMPAIGN).get("run_id")
        if known and not self._exists(known):
            self.ids.set_aside()  # MLflow's database was deleted: it is filled again from the store
        self.ids.campaign_id(event.params)
        run_id = self._campaign_run(event.at_ms)
        self._resume(CAMPAIGN, event.at_ms)
        self._log(run_id, params=dict(flatten(event.params)))

    def _finish_campaign(self, event: CampaignFinished) -> None:
        """The process ends: nothing of it runs from here on."""
        status: RunStatus = "FINISHED"
        if event.status != "finished":
            status = "KILLED" if event.status == "killed" else "FAILED"
        for key, entry in self.ids.entries().items():
            if entry.get("state") == "running":
                is_stage = not key.startswith("round_") and key != CAMPAIGN
                unseen = is_stage and status == "FINISHED"  # its end is still in the spool
                self._end(key, "KILLED" if unseen else status, event.at_ms)
        self._end(CAMPAIGN, status, event.at_ms)

    def _campaign_run(self, at_ms: int) -> str:
        return self._run(CAMPAIGN, self.name, at_ms, {"afd.level": "campaign"}, parent=None)

    def _round_run(self, index: int, at_ms: int) -> str:
        tags = {"afd.level": "round", "afd.round": str(index)}
        parent = self._campaign_run(at_ms)
        return self._run(round_key(index), f"round {index}", at_ms, tags, parent)

    def _stage_run(self, round_index: int | None, request: StageRequest, at_ms: int) -> str:
        ref = request.output
        parent = self._campaign_run(at_ms)
        tags = {
            "afd.level": "stage",
            "afd.stage": request.stage,
            "afd.artifact": f"{ref.kind}/{ref.fingerprint[:16]}",
        }
        if round_index is not None:
            parent = self._round_run(round_index, at_ms)
            tags["afd.round"] = str(round_index)
        where = "" if round_index is None else f" {round_index}"
        return self._run(stage_key(ref), f"{request.stage}{where}", at_ms, tags, parent)

    def _run(
        self, key: str, name: str, at_ms: int, tags: Mapping[str, str], parent: str | None
    ) -> str:
        """The run of `key`: the one that is known, or a new one, RUNNING."""
        client, experiment = self._connect()
        entry = self.ids.read(key)
        if entry:
            return str(entry["run_id"])
        tags = dict(tags) | {
            "afd.campaign": self.name,
            "afd.campaign_id": self.ids.campaign_id(None),
            "afd.key": key,
            "mlflow.source.name": "afd",
        }
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(experiment, start_time=at_ms, tags=tags, run_name=name)
        self.ids.write(key, run_id=run.info.run_id, state="running")
        return str(run.info.run_id)

    def _resume(self, key: str, at_ms: int) -> None:
        """Go on in a run that had ended before `at_ms`; what comes late changes nothing."""
        entry = self.ids.read(key)
        if entry["state"] != "running" and entry.get("ended_ms", 0) < at_ms:
            self._connect()[0].update_run(entry["run_id"], status="RUNNING")
            self.ids.write(key, state="running")

    def _end(self, key: str, status: RunStatus, at_ms: int) -> None:
        entry = self.ids.read(key)
        if not entry:
            return
        client, _ = self._connect()
        client.set_terminated(entry["run_id"], status=status, end_time=at_ms)
        self.ids.write(key, state=status.lower(), ended_ms=at_ms)

    def _sweep(self, at_ms: int) -> None:
        """Runs on disk, and those made in the instant before their id was written."""
        client, experiment = self._connect()
        found = client.search_runs(
            [experiment],
            f"attributes.status = 'RUNNING' and "
            f"tags.`afd.campaign_id` = '{self.ids.campaign_id(None)}'",
        )
        for run in found:
            key = run.data.tags["afd.key"]
            if not self.ids.read(key):
                self.ids.write(key, run_id=run.info.run_id, state="running")
            elif self.ids.read(key)["run_id"] != run.info.run_id:
                client.set_terminated(run.info.run_id, status="KILLED", end_time=at_ms)
        for key, entry in self.ids.entries().items():
            if entry.get("state") == "running":
                self._end(key, "KILLED", at_ms)

    # ------------------------------------------------------------------ stages

    def _record(self, event: StageDone) -> None:
        request, ref = event.request, event.request.output
        key = stage_key(ref)
        if self.ids.is_finished(key):
            return
        artifact = _load(Path(event.artifact))
        manifest = artifact.manifest
        ended = round(datetime.fromisoformat(manifest.created_at).timestamp() * 1000)
        began = ended - round(manifest.wall_s * 1000)
        run_id = self._stage_run(event.round_index, request, began)
        summary = {
            f"{request.stage}/{name}": float(value)
            for name, value in manifest.summary.items()
            if isinstance(value, int | float)
        }
        curves = [
            (name, *point) for name, points in read_curves(artifact).items() for point in points
        ]
        params = flatten(request.params)
        self._log(
            run_id,
            metrics=[(name, value, 0) for name, value in summary.items()]
            + [(f"{request.stage}/{name}", value, step) for name, step, value in curves],
            params=dict(params),
            tags=_tags(manifest, event.digests),
            at_ms=ended,
            span_ms=ended - began,
        )
        self._log_inputs(run_id, request, event.digests)
        for file in shown_files(artifact):
            folder = Path(file).parent.as_posix()
            self._connect()[0].log_artifact(
                run_id, str(artifact.path / file), None if folder == "." else folder
            )
        if event.round_index is not None:
            levels = [(self._round_run(event.round_index, began), 0)]
            if request.stage in ("fit", "update", "evaluate"):
                levels.append((self._campaign_run(began), event.round_index))
            for level, step in levels:
                self._log(level, metrics=[(n, v, step) for n, v in summary.items()], at_ms=ended)
        if ref.kind == "student_weights":
            self._register_student(run_id, event, manifest)
        if request.stage == "evaluate":
            self._crown(request, manifest)
        self._end(key, "FINISHED", ended)

    def _fail(self, event: StageFailed) -> None:
        key = stage_key(event.request.output)
        if self.ids.is_finished(key):
            return
        run_id = self._stage_run(event.round_index, event.request, event.at_ms)
        self._log(
            run_id, tags={"afd.outcome": event.outcome, "mlflow.note.content": event.log_tail}
        )
        self._end(key, "FAILED", event.at_ms)

    def _log_inputs(self, run_id: str, request: StageRequest, digests: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        roles: dict[ArtifactRef, list[str]] = {}
        for role, ref in request.inputs.items():
            roles.setdefault(ref, []).append(role)  # MLflow shows one row a dataset
        inputs = [
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
        if inputs:
            self._connect()[0].log_inputs(run_id, datasets=inputs)

    # ------------------------------------------------------------------ students

    def _register_student(self, run_id: str, event: StageDone, manifest: Manifest) -> None:
        """A logged model and a registered version: pointers, the bytes stay with the store."""
        import mlflow
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        client, experiment = self._connect()
        ref, key = event.request.output, stage_key(event.request.output)
        tags = {
            "afd.fingerprint": ref.fingerprint,
            "afd.store": f"store/{ref.kind}/{ref.fingerprint[:16]}",
            "afd.dvc": event.digests.get(ref.fingerprint, ""),
            "afd.round": "warmstart" if event.round_index is None else str(event.round_index),
        }
        entry = self.ids.read(key)
        model_id = entry.get("model_id")
        if model_id is None:
            model = client.create_logged_model(
                experiment,
                name=f"student-{ref.short}",
                source_run_id=run_id,
                tags=tags,
                model_type=str(manifest.params.get("student", {}).get("family", "student")),
            )
            model_id = model.model_id
            self.ids.write(key, model_id=model_id)
            step = 0 if event.round_index is None else event.round_index
            client.log_outputs(run_id, [LoggedModelOutput(model_id=model_id, step=step)])
            client.finalize_logged_model(model_id, "READY")
        if entry.get("version") is None:
            made = client.search_model_versions(f"run_id = '{run_id}'") if entry else []
            if not made:
                try:
                    client.create_registered_model(self.model_name)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                # MLflow 3 looks a source models:/<id> up through its global URI, not this client's.
                mlflow.set_tracking_uri(self.tracking_uri)
                made = [
                    client.create_model_version(
                        self.model_name,
                        source=f"models:/{model_id}",
                        run_id=run_id,
                        tags=tags,
                        model_id=model_id,
                        await_creation_for=0,
                    )
                ]
            self.ids.write(key, version=int(made[0].version))

    @property
    def model_name(self) -> str:
        """The registered model whose versions are this campaign's students."""
        return f"{self.name}-student"

    def _crown(self, request: StageRequest, manifest: Manifest) -> None:
        """Remember the student's held-out score and move the alias to the best of them.

        Only evaluations of the same card count: the ones after a round, not the final one.
        """
        student: ArtifactRef = request.inputs["student"]
        if "teacher_clips" in request.inputs or not self.ids.read(stage_key(student)):
            return
        self.ids.write(stage_key(student), score=manifest.summary)
        scored = {
            int(entry["version"]): entry["score"]
            for entry in self.ids.entries().values()
            if entry.get("version") is not None and entry.get("score") is not None
        }
        best = choose_champion(scored)
        if best is not None:
            client, _ = self._connect()
            client.set_registered_model_alias(self.model_name, CHAMPION, str(best))
            self.ids.write(CAMPAIGN, champion=best)

    # ------------------------------------------------------------------ the client

    def _log(
        self,
        run_id: str,
        *,
        metrics: Iterable[tuple[str, float, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        at_ms: int = 0,
        span_ms: int = 0,
    ) -> None:
        """Metrics (name, value, step) in batches; their times are a function of the artifact."""
        from mlflow.entities import Metric, Param, RunTag

        client, _ = self._connect()
        rows = list(metrics)
        last = max((step for _, _, step in rows), default=0) or 1
        points: list[Metric] = [
            Metric(name, value, at_ms - round(span_ms * (1 - step / last)), step)
            for name, value, step in rows
        ]
        values = [Param(name, value) for name, value in (params or {}).items()]
        marks = [RunTag(name, value[:MAX_VALUE]) for name, value in (tags or {}).items()]
        while points or values or marks:
            room = METRICS_BATCH - len(values[:BATCH]) - len(marks[:BATCH])
            client.log_batch(run_id, points[:room], values[:BATCH], marks[:BATCH])
            points, values, marks = points[room:], values[BATCH:], marks[BATCH:]

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        client, _ = self._connect()
        try:
            return client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def _connect(self) -> tuple["MlflowClient", str]:
        if self._connection is None:
            try:
                self._connection = connect(self.tracking_uri)
            except Exception as error:
                raise Unavailable(f"MLflow at {self.tracking_uri}: {error}") from error
        return self._connection


def connect(tracking_uri: str) -> tuple["MlflowClient", str]:
    """A client and the id of the experiment "afd", both made where they do not exist."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    location = None
    if tracking_uri.startswith("sqlite:///"):
        file = Path(tracking_uri.removeprefix("sqlite:///")).resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        location = (file.parent / "artifacts").as_uri()
        with contextlib.closing(sqlite3.connect(file)) as database:
            # Kept in the file: one fsync a commit instead of three, and the UI reads meanwhile.
            database.execute("PRAGMA journal_mode=WAL")
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return client, str(found.experiment_id)
    return client, str(client.create_experiment(EXPERIMENT, artifact_location=location))


def database_exists(tracking_uri: str) -> bool:
    """Whether a sqlite database is there; a server is taken at its word."""
    file = tracking_uri.removeprefix("sqlite:///")
    return file == tracking_uri or Path(file).exists()


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested params as dotted names and short texts, the way MLflow shows them."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", str(value)[:MAX_VALUE]))
    return rows


def read_curves(artifact: Artifact) -> dict[str, list[tuple[int, float]]]:
    """metrics.jsonl of an artifact: name -> [(step, value)]."""
    curves: dict[str, list[tuple[int, float]]] = {}
    if CURVES in artifact.manifest.files:
        for line in artifact.file(CURVES).read_text().splitlines():
            row = json.loads(line)
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    curves.setdefault(name, []).append((int(row["step"]), float(value)))
    return curves


def shown_files(artifact: Artifact) -> list[str]:
    """The pictures, films and pages of an artifact that are worth a copy in MLflow."""
    files = artifact.manifest.files
    shown = [
        name
        for name, entry in files.items()
        if name.endswith(SHOWN) and entry.num_bytes <= MAX_SHOWN_BYTES
    ]
    return sorted(shown)[:MAX_SHOWN]


def _tags(manifest: Manifest, digests: Mapping[str, str]) -> dict[str, str]:
    made_by = manifest.made_by
    return {
        "afd.fingerprint": manifest.fingerprint,
        "afd.dvc": digests.get(manifest.fingerprint, ""),
        "afd.wall_s": str(manifest.wall_s),
        "afd.cpu_s": str(manifest.cpu_s),
        "afd.dirty": str(made_by.is_dirty).lower(),
        "mlflow.source.git.commit": made_by.revision,
    }


def _load(path: Path) -> Artifact:
    return Artifact(path, Manifest.model_validate_json((path / "manifest.json").read_bytes()))
