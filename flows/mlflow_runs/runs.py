"""One campaign's runs in MLflow: what each event changes there.

Whatever is written can be written again: run ids come from disk, metrics carry the artifact's own
times, so a replay lands on the same rows. Parents are made when a child needs them, so events may
arrive late, twice or without their predecessors.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from afd.artifacts import MANIFEST, Artifact, Manifest
from afd.evaluation.readings import flatten
from afd.stages.request import StageName, StageRequest
from flows.mlflow_runs import pages
from flows.mlflow_runs.events import (
    CampaignFinished,
    CampaignStarted,
    CampaignStatus,
    Event,
    RoundFinished,
    RoundStarted,
    StageDone,
    StageFailed,
    StageStarted,
    Swept,
)
from flows.mlflow_runs.registry import Registry
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds, round_key, stage_key
from flows.mlflow_runs.tracking import Tracking

RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
ENDED: Mapping[CampaignStatus, RunStatus] = {
    "finished": "FINISHED",
    "paused": "SCHEDULED",
    "failed": "FAILED",
    "killed": "KILLED",
}
LEARNING: frozenset[StageName] = frozenset({"fit", "update", "evaluate"})  # curves against round

SHEET = "sheet.png"  # the evaluated student's clips


class Campaign:
    """Applies events to MLflow. Not thread-safe; lineage gives it one thread."""

    def __init__(self, tracking_uri: str, name: str, ids: RunIds) -> None:
        self.name = name
        self.ids = ids
        self._tracking = Tracking(tracking_uri)
        self._registry = Registry(self._tracking, name, ids)

    def is_away(self, error: Exception) -> bool:
        """Whether MLflow itself is in trouble, rather than what was written."""
        return self._tracking.is_away(error)

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
                self._finish_round(event)
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
        if known and not self._tracking.has(known):
            self.ids.set_aside()  # MLflow's database was deleted: it is filled again from the store
        self.ids.campaign_id(event.params)
        run_id = self._campaign_run(event.at_ms)
        self.ids.write(CAMPAIGN, experiment_id=self._tracking.experiment)  # for links into the UI
        self._resume(CAMPAIGN, event.at_ms)
        self._tracking.log(run_id, params=dict(flatten(event.params)))

    def _finish_campaign(self, event: CampaignFinished) -> None:
        """The process ends: nothing of it runs from here on."""
        status = ENDED[event.status]
        for key, entry in self.ids.entries().items():
            if entry.get("state") == "running":
                is_stage = not key.startswith("round_") and key != CAMPAIGN
                # The end of one that is unseen is still in the spool.
                unseen = is_stage and event.status in (
                    "finished",
                    "paused",
                )
                self._end(key, "KILLED" if unseen else status, event.at_ms)
        self._end(CAMPAIGN, status, event.at_ms)

    def _finish_round(self, event: RoundFinished) -> None:
        round_run = self._round_run(event.round_index, event.at_ms)
        if event.decision is not None:
            metrics, tags = pages.decision(event.decision)
            rows = [(name, value, 0) for name, value in metrics.items()]
            self._tracking.log(round_run, metrics=rows, tags=tags, at_ms=event.at_ms)
            rows = [(name, value, event.round_index) for name, value in metrics.items()]
            shown = self._campaign_run(event.at_ms)
            self._tracking.log(shown, metrics=rows, tags=tags, at_ms=event.at_ms)
        self._end(round_key(event.round_index), "FINISHED", event.at_ms)

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
        client, experiment = self._tracking.client, self._tracking.experiment
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
        if (made := self._made_unheard(key)) is not None:
            self.ids.write(key, run_id=made, state="running")
            return made
        run = client.create_run(experiment, start_time=at_ms, tags=tags, run_name=name)
        self.ids.write(key, run_id=run.info.run_id, state="running")
        return str(run.info.run_id)

    def _made_unheard(self, key: str) -> str | None:
        """A run that a server made when its answer was lost: a second one would never end."""
        if not self._tracking.is_remote:
            return None
        found = self._tracking.client.search_runs(
            [self._tracking.experiment],
            f"tags.`afd.campaign_id` = '{self.ids.campaign_id(None)}' and tags.`afd.key` = '{key}'",
            max_results=1,
        )
        return str(found[0].info.run_id) if found else None

    def _resume(self, key: str, at_ms: int) -> None:
        """Go on in a run that had ended before `at_ms`; what comes late changes nothing."""
        entry = self.ids.read(key)
        if entry["state"] != "running" and entry.get("ended_ms", 0) < at_ms:
            self._tracking.client.update_run(entry["run_id"], status="RUNNING")
            self.ids.write(key, state="running")

    def _end(self, key: str, status: RunStatus, at_ms: int) -> None:
        entry = self.ids.read(key)
        if not entry:
            return
        self._tracking.client.set_terminated(entry["run_id"], status=status, end_time=at_ms)
        self.ids.write(key, state=status.lower(), ended_ms=at_ms)

    def _sweep(self, at_ms: int) -> None:
        """Runs on disk, and those made in the instant before their id was written."""
        client, experiment = self._tracking.client, self._tracking.experiment
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
        ref, key = event.request.output, stage_key(event.request.output)
        if self.ids.is_finished(key):
            return
        path = Path(event.artifact)
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
        artifact = Artifact(path, manifest)
        ended = round(datetime.fromisoformat(manifest.created_at).timestamp() * 1000)
        began = ended - round(manifest.wall_s * 1000)
        run_id = self._stage_run(event.round_index, event.request, began)
        outside = pages.outside(artifact)
        summary = pages.summary(manifest) | outside.metrics
        self._tracking.log(
            run_id,
            metrics=[(n, v, 0) for n, v in summary.items()] + pages.curves(artifact),
            params=dict(flatten(event.request.params)),
            tags=pages.tags(manifest, event.digests) | outside.tags,
            at_ms=ended,
            span_ms=ended - began,
        )
        if inputs := pages.inputs(event.request.inputs, event.digests):
            self._tracking.client.log_inputs(run_id, datasets=inputs)
        self._tracking.show_files(run_id, path, pages.files(artifact))
        if event.round_index is not None:
            self._sum_up(event.request.stage, event.round_index, summary, ended)
        self._show_on_campaign(event, artifact, ended)
        if outside.tags:  # the campaign's page shows these metrics, so it shows what they are worth
            self._tracking.log(self._campaign_run(ended), tags=outside.tags)
        if event.request.makes_student:
            self._registry.add(run_id, event.round_index, ref, manifest, event.digests)
        if event.request.stage == "evaluate" and event.round_index is not None:
            # Scores of one card only: those after a round, not the final one.
            self._registry.crown(event.request.inputs["student"], manifest)
        self._end(key, "FINISHED", ended)

    def _sum_up(
        self, stage: StageName, index: int, summary: Mapping[str, float], at_ms: int
    ) -> None:
        """What the stage showed, on its round's page and, against round, on the campaign's."""
        round_run = self._round_run(index, at_ms)
        self._tracking.log(round_run, metrics=[(n, v, 0) for n, v in summary.items()], at_ms=at_ms)
        if stage in LEARNING:
            self._tracking.log(
                self._campaign_run(at_ms),
                metrics=[(n, v, index) for n, v in summary.items()],
                at_ms=at_ms,
            )

    def _show_on_campaign(self, event: StageDone, artifact: Artifact, at_ms: int) -> None:
        """What a person looks for first: pictures against round, and how it ended."""
        if event.request.stage not in ("evaluate", "report") or "horizon" in event.request.params:
            return
        run_id = self._campaign_run(at_ms)
        if event.round_index is None:
            self._tracking.show_files(run_id, artifact.path, pages.files(artifact))
        elif SHEET in artifact.manifest.files:
            picture, step = artifact.file(SHEET), event.round_index
            for shown_on in (run_id, self._round_run(step, at_ms)):
                self._tracking.show_picture(shown_on, "students", step, picture, at_ms)

    def _fail(self, event: StageFailed) -> None:
        key = stage_key(event.request.output)
        if self.ids.is_finished(key):
            return
        run_id = self._stage_run(event.round_index, event.request, event.at_ms)
        tags = {"afd.outcome": event.outcome, "mlflow.note.content": event.log_tail}
        self._tracking.log(run_id, tags=tags)
        self._end(key, "FAILED", event.at_ms)
