"""The tree of a campaign's MLflow runs: campaign, rounds, stages. Each is made once.

Ids of runs are on disk before anything is written into them, so a killed campaign goes on in its
own runs. What MLflow refuses of a run is reported and holds back nothing else.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from afd.artifacts import ArtifactRef
from flows.mlflow_runs.client import Point, Tracking, Unavailable, brief
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds, round_key, stage_key

logger = logging.getLogger(__name__)
RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]


class RunTree:
    """The runs of one campaign; not thread-safe."""

    def __init__(self, tracking: Tracking, name: str, ids: RunIds) -> None:
        self.tracking, self.name, self.ids = tracking, name, ids
        self.num_calls = 0  # grows for as long as MLflow answers
        self.num_refused = 0  # parts of runs
        self.is_touched = False  # by a stage

    def part(self, key: str, what: str, write: Callable[[], object]) -> None:
        """Write a part of a run; where MLflow refuses it, `sync(again=True)` tries once more."""
        try:
            write()
        except Exception as error:  # noqa: BLE001  a record never fails a campaign
            self.raise_if_away(error)
            logger.warning(
                "MLflow refuses %s of %s/%s, the rest is recorded: %s",
                what, self.name, key, brief(error),
            )  # fmt: skip
            self.num_refused += 1
            self.ids.write(key, refused=[*self.ids.read(key).get("refused", ()), what])
        self.num_calls += 1

    def raise_if_away(self, error: Exception) -> None:
        if self.tracking.is_away(error):
            raise Unavailable(brief(error)) from error

    def log(
        self,
        key: str,
        metrics: Sequence[Point],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        model_id: str | None = None,
    ) -> None:
        """Write all of it in one call; where MLflow refuses that, piece by piece."""
        run_id = str(self.ids.read(key)["run_id"])
        write = partial(self.tracking.log, run_id)
        try:
            write(metrics=metrics, params=params, tags=tags, model_id=model_id)
        except Exception as error:  # noqa: BLE001  each part reports its own
            self.raise_if_away(error)
            self.part(key, "metrics", partial(write, metrics=metrics, model_id=model_id))
            self.part(key, "tags", partial(write, tags=tags))
            for name, value in params.items():
                self.part(key, f"param {name[:80]}", partial(write, params={name: value}))

    def campaign_run(self) -> str:
        tags = {"afd.level": "campaign", "afd.state": "running"}
        return self._run(CAMPAIGN, self.name, now_ms(), tags, parent=None)

    def round_run(self, index: int, at_ms: int) -> str:
        tags = {"afd.level": "round", "afd.round": str(index)}
        parent = self.campaign_run()
        return self._run(round_key(index), f"round {index}", at_ms, tags, parent)

    def stage_run(self, stage: str, ref: ArtifactRef, index: int | None, at_ms: int) -> str:
        self.is_touched = True
        tags = {
            "afd.level": "stage",
            "afd.stage": stage,
            "afd.artifact": f"{ref.kind}/{ref.fingerprint[:16]}",
        }
        if index is None:
            return self._run(stage_key(ref), stage, at_ms, tags, self.campaign_run())
        tags["afd.round"] = str(index)
        parent = self.round_run(index, at_ms)
        return self._run(stage_key(ref), f"{stage} {index}", at_ms, tags, parent)

    def _run(
        self, key: str, name: str, at_ms: int, tags: Mapping[str, str], parent: str | None
    ) -> str:
        """Return the run of `key`: the one that is known, or a new one, RUNNING."""
        if run_id := self.ids.read(key).get("run_id"):
            return str(run_id)
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
        client = self.tracking.client
        run = client.create_run(
            self.tracking.experiment, start_time=at_ms, tags=tags, run_name=name
        )
        self.ids.write(key, run_id=run.info.run_id, state="running", start_ms=at_ms)
        self.num_calls += 1
        return str(run.info.run_id)

    def _made_unheard(self, key: str) -> str | None:
        """Return a run that a server made when its answer was lost: a second would never end."""
        if not self.tracking.is_remote:
            return None
        mine = f"tags.`afd.campaign_id` = '{self.ids.campaign_id(None)}'"
        found = self.tracking.client.search_runs(
            [self.tracking.experiment], f"{mine} and tags.`afd.key` = '{key}'", max_results=1
        )
        return str(found[0].info.run_id) if found else None

    def adopt(self) -> None:
        """Take up runs that were made in the instant before their id was on disk."""
        client = self.tracking.client
        mine = f"tags.`afd.campaign_id` = '{self.ids.campaign_id(None)}'"
        for run in client.search_runs(
            [self.tracking.experiment], f"attributes.status = 'RUNNING' and {mine}"
        ):
            key = run.data.tags["afd.key"]
            known = self.ids.read(key).get("run_id")
            if known is None:
                self.ids.write(key, run_id=run.info.run_id, state="running")
            elif known != run.info.run_id:
                client.set_terminated(run.info.run_id, status="KILLED", end_time=now_ms())

    def resume(self, key: str) -> None:
        self.tracking.client.update_run(self.ids.read(key)["run_id"], status="RUNNING")
        if key == CAMPAIGN:
            self.log(key, (), {}, {"afd.state": "running"})
        self.ids.write(key, state="running")

    def end(self, key: str, status: RunStatus, at_ms: int) -> None:
        run_id = self.ids.read(key)["run_id"]
        self.tracking.client.set_terminated(run_id, status=status, end_time=at_ms)
        self.ids.write(key, state=status.lower(), ended_ms=at_ms)


def now_ms() -> int:
    """Return this moment as MLflow counts time."""
    return time.time_ns() // 1_000_000
