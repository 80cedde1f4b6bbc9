"""Writer of records (projection.py) into MLflow: each run is created once, each part on its own.

Ids of runs are on disk before anything is written into the runs, so a killed campaign goes on in
its own runs. A part that MLflow refuses is reported, and all other parts are written.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from afd.evaluation.readings import flatten
from flows.mlflow_runs import results
from flows.mlflow_runs.client import NOTE, Point, Tracking, Unavailable, brief, now_ms
from flows.mlflow_runs.projection import campaign_run
from flows.mlflow_runs.records import Content, Record, Row, Run, RunStatus
from flows.mlflow_runs.registry import Registry
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds, stage_key

log = logging.getLogger(__name__)


class RunWriter:
    """Writer into the runs of one campaign; not thread-safe."""

    def __init__(self, tracking: Tracking, name: str, ids: RunIds) -> None:
        self.num_calls = 0  # grows for as long as MLflow answers
        self.num_refused = 0  # records and parts of them
        self._tracking, self._name, self._ids = tracking, name, ids
        self._registry = Registry(tracking, name, ids)

    def open(self, params: dict[str, Any]) -> None:
        """Find the campaign's run or make it, and runs whose ids a kill kept from the disk."""
        known = self._ids.read(CAMPAIGN).get("run_id")
        if known and not self._search(f"attributes.run_id = '{known}'"):
            self._ids.set_aside()  # the server's database was deleted
        self._ids.campaign_id(params)
        for run in self._found("attributes.status = 'RUNNING'"):
            key, run_id = run.data.tags["afd.key"], run.info.run_id
            known = self._ids.read(key).get("run_id")
            if known is None:  # made in the instant before its id was on disk
                self._ids.write(key, run_id=run_id, state="running")
            elif known != run_id:
                self._tracking.client.set_terminated(run_id, "KILLED", now_ms())
        run_id = self._run(campaign_run(self._name, now_ms()))
        self._ids.write(CAMPAIGN, experiment_id=self._tracking.experiment)  # for links into the UI
        there = self._tracking.client.get_run(run_id).data
        missing = {name: value for name, value in flatten(params) if name not in there.params}
        note = {} if NOTE in there.tags else {NOTE: results.opening(self._name, params)}
        self._log(CAMPAIGN, Content(CAMPAIGN, params=missing, tags=note))

    def write(self, record: Record) -> None:
        """Write a record; writing it again leaves the same rows."""
        key = record.key
        for run in record.runs:
            self._run(run)
        if self._ids.read(key).get("refused"):
            self._ids.write(key, refused=[])
        for content in record.contents:
            self._log(key, content)
            self._log_files(key, content)
        if record.version is not None:
            self._part(key, "model", partial(self._registry.add, self._id(key), record.version))
        if record.evaluated is not None:
            crown = partial(self._registry.crown, record.evaluated, record.summary)
            self._part(key, "champion", crown)
        for run_key, status, at_ms in record.states:
            self._set_state(run_key, status, at_ms)
        if record.notes:
            self._ids.write(key, **record.notes)
        self.num_calls += 1

    def raise_if_away(self, error: Exception) -> None:
        """Raise Unavailable where `error` comes from MLflow itself."""
        if self._tracking.is_away(error):
            raise Unavailable(brief(error)) from error

    def _id(self, key: str) -> str:
        return str(self._ids.read(key)["run_id"])

    def _search(self, condition: str) -> list[Any]:
        return list(self._tracking.client.search_runs([self._tracking.experiment], condition))

    def _found(self, condition: str) -> list[Any]:
        """Return the campaign's own runs that MLflow has."""
        mine = self._ids.campaign_id(None)
        return self._search(f"{condition} and tags.`afd.campaign_id` = '{mine}'")

    def _run(self, run: Run) -> str:
        """Return the id of a run: the one that is known, or a new one, RUNNING."""
        if run_id := self._ids.read(run.key).get("run_id"):
            return str(run_id)
        # Its entry was lost or damaged, or the server's answer was.
        found = self._found(f"tags.`afd.key` = '{run.key}'")
        if found:
            self._ids.write(run.key, run_id=found[0].info.run_id, state="running")
            return self._id(run.key)
        tags = dict(run.tags) | {
            "afd.campaign": self._name,
            "afd.campaign_id": self._ids.campaign_id(None),
            "afd.key": run.key,
            "mlflow.source.name": "afd",
        }
        if run.parent is not None:
            tags["mlflow.parentRunId"] = self._id(run.parent)
        made = self._tracking.client.create_run(
            self._tracking.experiment, start_time=run.start_ms, tags=tags, run_name=run.name
        )
        made_id = str(made.info.run_id)
        self._ids.write(run.key, run_id=made_id, state="running", start_ms=run.start_ms)
        self.num_calls += 1
        return made_id

    def _set_state(self, key: str, status: RunStatus, at_ms: int) -> None:
        entry, client = self._ids.read(key), self._tracking.client
        if status != "RUNNING":
            client.set_terminated(entry["run_id"], status=status, end_time=at_ms)
            self._ids.write(key, state=status.lower(), ended_ms=at_ms)
        elif entry["state"] != "running":
            client.update_run(entry["run_id"], status=status)
            self._ids.write(key, state="running")

    def _part(self, key: str, what: str, write: Callable[[], object]) -> None:
        """Write a part of a record; `sync(again=True)` tries once more what MLflow refuses."""
        try:
            write()
        except Exception as error:  # noqa: BLE001  a record never fails a campaign
            self.raise_if_away(error)
            log.warning(
                "MLflow refuses %s of %s/%s, the rest is recorded: %s",
                what, self._name, key, brief(error),
            )  # fmt: skip
            self.num_refused += 1
            self._ids.write(key, refused=[*self._ids.read(key).get("refused", ()), what])
        self.num_calls += 1

    def _log(self, key: str, content: Content) -> None:
        """Write metrics, params and tags in one call; where MLflow refuses that, piece by piece."""
        write = partial(self._tracking.log, self._id(content.key))
        student = content.model_of
        model_id = None if student is None else self._ids.read(stage_key(student)).get("model_id")
        metrics = partial(write, metrics=content.metrics, model_id=model_id)
        try:
            metrics(params=content.params, tags=content.tags)
        except Exception as error:  # noqa: BLE001  each part reports its own
            self.raise_if_away(error)
            self._part(key, "metrics", metrics)
            self._part(key, "tags", partial(write, tags=content.tags))
            for name, value in content.params.items():
                self._part(key, f"param {name[:80]}", partial(write, params={name: value}))

    def _log_files(self, key: str, content: Content) -> None:
        run_id, client = self._id(content.key), self._tracking.client
        if content.curve:
            self._part(key, "curve", partial(self._extend, content.key, content.curve))
        if content.inputs:
            write = partial(client.log_inputs, run_id, datasets=list(content.inputs))
            self._part(key, "inputs", write)
        for name in content.files:
            place = Path(name).parent.as_posix()
            file, place = str(content.folder / name), None if place == "." else place
            self._part(key, f"file {name}", partial(client.log_artifact, run_id, file, place))
        if content.picture is not None:
            self._part(key, "picture", partial(self._log_picture, run_id, *content.picture))

    def _log_picture(self, run_id: str, step: int, picture: Path, at_ms: int) -> None:
        from PIL import Image

        client = self._tracking.client
        there = {Path(f.path).name for f in client.list_artifacts(run_id, "images")}
        if not any(name.startswith(f"students+step+{step}+") for name in there):
            with Image.open(picture) as image:
                client.log_image(run_id, image, key="students", step=step, timestamp=at_ms)

    def _extend(self, key: str, rows: Sequence[Row]) -> None:
        """Write the rows that MLflow lacks; the time of one is its run's start and its step.

        Nobody knows when a step was made: steps are 1 ms apart.
        """
        entry = self._ids.read(key)
        if "start_ms" not in entry:  # of an earlier version, or found in MLflow
            run = self._tracking.client.get_run(entry["run_id"])
            self._ids.write(key, start_ms=run.info.start_time)
            entry = self._ids.read(key)
        start, known = int(entry["start_ms"]), int(entry.get("step", -1))
        points = [Point(n, value, step, start + step) for n, value, step in rows if step > known]
        if points:
            self._tracking.log(entry["run_id"], metrics=points)
            self._ids.write(key, step=max(point.step for point in points))
