"""Difference between a campaign's files and its runs in MLflow.

`CampaignRuns.sync` writes the records (projection.py) that MLflow lacks. A sync that was cut short
is finished by the next one.
"""

import logging
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from afd.artifacts import ArtifactRef
from afd.store import Store, StoreError
from flows import alarm_log, dvc_tracking
from flows.mlflow_runs import projection
from flows.mlflow_runs.client import (
    Tracking,
    Unavailable,
    brief,
    database_exists,
    is_refusal,
    now_ms,
)
from flows.mlflow_runs.facts import Facts, read_facts
from flows.mlflow_runs.projection import ENDED
from flows.mlflow_runs.records import Content, Record, Row, RunStatus
from flows.mlflow_runs.registry import model_name
from flows.mlflow_runs.run_ids import CAMPAIGN, CampaignEnding, RunIds, round_key, stage_key
from flows.mlflow_runs.writer import RunWriter

log = logging.getLogger(__name__)
Due = Iterator[tuple[str, Callable[[], Record]]]


class CampaignRuns:
    """MLflow runs of one campaign. Use it while holding the campaign's lock; not thread-safe."""

    def __init__(self, tracking_uri: str, folder: Path, store: Store) -> None:
        self.folder, self.name, self.store = folder, folder.name, store
        self.ids = RunIds(folder)
        self.is_abandoned = False  # set from another thread: begin no further record
        self._tracking = Tracking(tracking_uri, self.ids.read(CAMPAIGN).get("run_id"))
        self.writer = RunWriter(self._tracking, self.name, self.ids)
        self._is_open = False
        self._has_stages = False  # of this process
        self._refused: set[str] = set()  # not tried again by this process
        self._digests: dict[str, str] = {}

    def sync(
        self,
        running: Set[str] = frozenset(),
        status: CampaignEnding | None = None,
        *,
        again: bool = False,
    ) -> int:
        """Write what MLflow lacks; return how many records that were.

        `running`: keys of the stages that this process waits for; nobody computes any other.
        `status`: how the campaign ended; None while it runs. `again`: also what MLflow refused
        before. Raises Unavailable when MLflow is away, OSError when ids cannot be written.
        """
        if self.ids.read("identity") and not database_exists(self._tracking.uri):
            self.ids.set_aside()  # a new one is filled from the store
            self._is_open = False
        # `again` looks into MLflow in any case: its experiment may have been deleted.
        if not again and next(self._due(running, status, again), None) is None:
            return 0
        num_written = 0
        try:
            if not self._is_open:
                self.writer.open(_params(self.folder))
            self._is_open = True
            for what, build in self._due(running, status, again):
                if self.is_abandoned:
                    break
                num_written += self._try(what, build)
        except Exception as error:
            self._is_open = False  # a run may have been made although the answer was lost
            self.writer.raise_if_away(error)
            if not is_refusal(error):
                raise
            raise Unavailable(brief(error)) from error
        return num_written

    def _try(self, what: str, build: Callable[[], Record]) -> bool:
        """Write one record; report a refused one and go on with the next."""
        try:
            record = build()
            self.writer.write(record)
        except Exception as error:
            self.writer.raise_if_away(error)
            if isinstance(error, OSError):
                raise  # of the campaign's own folder
            log.warning("MLflow has not taken %s of %s: %s", what, self.name, brief(error))
            self._refused.add(what)
            self.writer.num_refused += 1
            return False
        self._has_stages |= any("afd.stage" in run.tags for run in record.runs)
        return True

    def _due(self, running: Set[str], status: CampaignEnding | None, again: bool) -> Due:
        """Yield name and record of everything that is to be written, the oldest first.

        Each is looked up when those before it are written; refused ones are left out.
        """
        facts = read_facts(self.folder)
        for what, build in self._all_due(facts, running, status, again):
            if what not in self._refused:
                yield what, build

    def _all_due(
        self, facts: Facts, running: Set[str], status: CampaignEnding | None, again: bool
    ) -> Due:
        campaign = self.ids.read(CAMPAIGN)
        if not campaign.get("run_id") and (facts.stages or status is None):
            yield "campaign", lambda: Record(CAMPAIGN)  # made by opening
        elif running and campaign.get("state") != "running":
            yield "campaign resumed", projection.resumed
        for ref in facts.stages:
            yield from self._due_of(ref, facts, running, again)
        for index in facts.closed_rounds:
            own = [ref for ref, its_round in facts.stages.items() if its_round == index]
            if not self.ids.is_finished(round_key(index)) and all(map(self._is_known, own)):
                yield f"round {index}", partial(self._round, index, own)
        final = facts.final
        is_recorded = final is None or self.ids.read(CAMPAIGN).get("final") == final.fingerprint
        if final is not None and self._is_known(final) and not is_recorded:
            yield "held-out result", partial(self._result, final, len(facts.closed_rounds))
        for key, state in self._left_running(running, status):
            yield f"end of {key}", partial(Record, key, states=[(key, state, now_ms())])
        if status is not None and self._is_ended_by(status):
            stopped = any(one["ends"] == "stops" for one in alarm_log.records(self.folder)[-1:])
            ended = partial(projection.ended_campaign, status, now_ms(), stopped)
            yield f"campaign {status}", ended

    def _due_of(self, ref: ArtifactRef, facts: Facts, running: Set[str], again: bool) -> Due:
        key, begun, label = stage_key(ref), facts.begun.get(ref), _label(ref)
        entry = self.ids.read(key)
        if entry.get("state") == "finished" and not (again and entry.get("refused")):
            return
        if self.store.have(ref):
            began_ms = begun.began_ms if begun else None
            yield label, partial(self._stage, ref, facts.stages[ref], began_ms)
        elif begun is not None and key in running:
            if entry.get("state") != "running":
                yield f"{label} begun", partial(projection.begun_stage, begun)
            if rows := self._new_rows(ref, int(entry.get("step", -1))):
                yield f"{label} curve", partial(Record, key, contents=[Content(key, curve=rows)])
        elif begun is not None and begun.outcome and entry.get("failed_ms") != begun.began_ms:
            yield f"{label} failed", partial(projection.failed_stage, begun, now_ms())

    def _new_rows(self, ref: ArtifactRef, after: int) -> list[Row]:
        """Return the rows that the latest attempt at a running stage has made after a step."""
        work = self.store.work_path(ref)
        for file in sorted(work.glob(f"attempts/[0-9]*/out/{projection.CURVES}"))[-1:]:
            with suppress(FileNotFoundError):  # published, or overtaken by another attempt
                return projection.rows_of(file.read_bytes(), after)
        return []

    def _is_known(self, ref: ArtifactRef) -> bool:
        """Return whether nothing more will be written of a stage."""
        return self.ids.is_finished(stage_key(ref)) or _label(ref) in self._refused

    def _left_running(
        self, running: Set[str], status: CampaignEnding | None
    ) -> Iterator[tuple[str, RunStatus]]:
        """Yield the runs that no process computes any more, with their final status.

        A round's run is left alone while its campaign runs.
        """
        for key, entry in self.ids.entries().items():
            is_round = key.startswith("round_")
            is_left = entry.get("state") == "running" and key != CAMPAIGN and key not in running
            if is_left and status is None and not is_round:
                yield key, "KILLED"
            elif is_left and status is not None:
                is_cut = not is_round and status in ("finished", "paused")
                yield key, "KILLED" if is_cut else ENDED[status]

    def _is_ended_by(self, status: CampaignEnding) -> bool:
        """Return whether `status` ends the campaign's run; that of a refused command does not."""
        state = self.ids.read(CAMPAIGN).get("state")
        if state is None or state == ENDED[status].lower():
            return False
        return state == "running" or self._has_stages or status == "finished"

    def _stage(self, ref: ArtifactRef, index: int | None, began_ms: int | None) -> Record:
        artifact = self.store.load(ref)
        for one in (ref, *artifact.manifest.made_from.values()):
            if one.fingerprint not in self._digests and self.store.have(one):
                with suppress(StoreError):  # damaged: reported where it is recorded itself
                    self._digests[one.fingerprint] = dvc_tracking.digest(self.store.load(one))
        return projection.finished_stage(artifact, index, began_ms, self._digests)

    def _round(self, index: int, own: list[ArtifactRef]) -> Record:
        ended = max((self.ids.read(stage_key(ref)).get("ended_ms", 0) for ref in own), default=0)
        decisions = [one for one in alarm_log.records(self.folder) if one["round"] == index]
        return projection.finished_round(index, ended or now_ms(), decisions)

    def _result(self, final: ArtifactRef, num_rounds: int) -> Record:
        evaluation = self.store.load(final)
        student = self.ids.read(stage_key(evaluation.manifest.made_from["student"]))
        version = student.get("version")
        model = (model_name(self.name, self.ids), version)
        return projection.held_out_result(self.name, evaluation, num_rounds, model)


def _label(ref: ArtifactRef) -> str:
    return f"{ref.kind} {ref.short}"


def _params(folder: Path) -> dict[str, Any]:
    """Return the campaign's params as its folder has them."""
    try:
        return yaml.safe_load((folder / "params.yaml").read_text()) or {}
    except FileNotFoundError:
        return {}
