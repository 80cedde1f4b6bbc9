"""Writer of records (projection.py) into MLflow: each run is created once, each part on its own.

Ids of runs are on disk before anything is written into the runs, so a killed campaign goes on in
its own runs. A part that MLflow refuses is reported, and all other parts are written. A run or
experiment that somebody deleted is restored when there is something to write into it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from afd.evaluation.readings import flatten
from flows.mlflow_runs import results
from flows.mlflow_runs.client import Point, Tracking, Unavailable, brief, now_ms
from flows.mlflow_runs.experiment import NOTE, find_run, restore
from flows.mlflow_runs.limits import MAX_VALUE, allowed_name, allowed_value
from flows.mlflow_runs.projection import campaign_run
from flows.mlflow_runs.records import Content, Record, Row, Run, RunStatus
from flows.mlflow_runs.registry import Registry
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds, stage_key

log = logging.getLogger(__name__)
T = TypeVar("T")
DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED")


class RunWriter:
    """Writer into the runs of one campaign; not thread-safe."""

    def __init__(self, tracking: Tracking, name: str, ids: RunIds) -> None:
        self.num_calls = 0  # grows for as long as MLflow answers
        self.num_refused = 0  # records and parts of them
        self._tracking, self._name, self._ids = tracking, name, ids
        self._registry = Registry(tracking, name, ids)
        self._changed: set[str] = set()  # names that were reported

    def open(self, params: dict[str, Any]) -> None:
        """Find the campaign's run or make it, and runs whose ids a kill kept from the disk."""
        known = self._ids.read(CAMPAIGN).get("run_id")
        run = find_run(self._tracking.client, known) if known else None
        if known and (run is None or run.info.experiment_id != self._tracking.experiment):
            self._ids.set_aside()  # the server's database was deleted, or its experiment is
        elif known:
            self._restored(CAMPAIGN)
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
        missing = {n: value for n, value in flatten(params) if allowed_name(n) not in there.params}
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
        create = partial(self._tracking.client.create_run, self._tracking.experiment)
        made = self._call(
            run.key, partial(create, start_time=run.start_ms, tags=tags, run_name=run.name)
        )
        made_id = str(made.info.run_id)
        self._ids.write(run.key, run_id=made_id, state="running", start_ms=run.start_ms)
        self.num_calls += 1
        return made_id

    def _set_state(self, key: str, status: RunStatus, at_ms: int) -> None:
        entry, client = self._ids.read(key), self._tracking.client
        if status != "RUNNING":
            end = partial(client.set_terminated, entry["run_id"], status=status, end_time=at_ms)
            self._call(key, end)
            self._ids.write(key, state=status.lower(), ended_ms=at_ms)
        elif entry["state"] != "running":
            self._call(key, partial(client.update_run, entry["run_id"], status=status))
            self._ids.write(key, state="running")

    def _call(self, key: str, write: Callable[[], T]) -> T:
        """Return what `write` returns; once more where its run or experiment had to be restored.

        Raises Unavailable where MLflow is away or gives no permission.
        """
        try:
            return write()
        except Exception as error:
            self.raise_if_away(error)
            if getattr(error, "error_code", "") in DENIED:
                raise Unavailable(f"no permission to write: {brief(error)}") from error
            if not self._restored(key):
                raise
            return write()

    def _restored(self, key: str) -> bool:
        """Return whether the experiment or the run of `key` was deleted and is not any more."""
        client, experiment = self._tracking.client, self._tracking.experiment
        was_deleted = client.get_experiment(experiment).lifecycle_stage == "deleted"
        if was_deleted and not restore(client, experiment):
            return False
        run_id = self._ids.read(key).get("run_id")
        run = find_run(client, run_id) if run_id else None
        if run is not None and run.info.lifecycle_stage == "deleted":
            client.restore_run(str(run_id))
            log.warning("MLflow: run %s of %s was deleted; it is restored", key, self._name)
            return True
        return was_deleted

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
        params = self._allowed("param", content.params)
        tags = self._allowed("tag", content.tags)
        points = self._allowed_points(content.metrics)
        student = content.model_of
        model_id = None if student is None else self._ids.read(stage_key(student)).get("model_id")
        write = partial(self._tracking.log, self._id(content.key))
        everything = partial(write, metrics=points, params=params, tags=tags, model_id=model_id)
        try:
            self._call(content.key, everything)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001  each part reports its own
            for name in dict.fromkeys(point.name for point in points):
                own = [point for point in points if point.name == name]
                self._part(key, f"metric {name}", partial(write, metrics=own))
                if model_id is not None:
                    of_model = partial(write, metrics=own, model_id=model_id)
                    self._part(key, f"metric {name} of the model", of_model)
            for name, value in tags.items():
                self._part(key, f"tag {name}", partial(write, tags={name: value}))
            for name, value in params.items():
                self._part(key, f"param {name}", partial(write, params={name: value}))

    def _allowed(self, kind: str, values: Mapping[str, str]) -> dict[str, str]:
        """Return names and values that MLflow takes; report what differs, each once."""
        found: dict[str, str] = {}
        for name, value in values.items():
            found[self._allowed_name(kind, name)] = allowed_value(value)
            if len(value) > MAX_VALUE:
                self._report(
                    f"{kind} {name[:80]} is cut to {MAX_VALUE} of its {len(value)} characters"
                )
        return found

    def _allowed_points(self, points: Sequence[Point]) -> list[Point]:
        return [point._replace(name=self._allowed_name("metric", point.name)) for point in points]

    def _allowed_name(self, kind: str, name: str) -> str:
        allowed = allowed_name(name)
        if allowed != name:
            self._report(f"{kind} {name[:80]!r} is recorded as {allowed!r}")
        return allowed

    def _report(self, change: str) -> None:
        if change not in self._changed:
            self._changed.add(change)
            log.warning("MLflow: %s of %s: the campaign's own files have it whole",
                        change, self._name)  # fmt: skip

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
            allowed = self._allowed_points(points)
            self._call(key, partial(self._tracking.log, entry["run_id"], metrics=allowed))
            self._ids.write(key, step=max(point.step for point in points))
