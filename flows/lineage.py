"""Lineage: campaign > round > stage runs in MLflow, which shows and never decides.

Every call returns at once: a thread imports MLflow (2-3 s), opens its database and writes. What
MLflow refuses is spooled to <campaign>/lineage/spool.jsonl and relayed later; a campaign never
waits for it and never fails by it. Ids of runs stand on disk beside the spool, so a resumed stage
goes on in its own run and a finished campaign, run again, does not even import MLflow.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import ValidationError

from afd.artifacts import Artifact, ArtifactRef
from afd.stages.request import StageRequest
from afd.store import write_atomic
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
    parse,
)
from flows.mlflow_runs.run_ids import RunIds, round_key, stage_key
from flows.mlflow_runs.runs import Campaign
from flows.mlflow_runs.tracking import Unavailable, brief, database_exists

log = logging.getLogger(__name__)
RETRY_AFTER_S = 30.0  # how long MLflow is left alone after it failed
FLUSH_TIMEOUT_S = 60.0  # a new database takes 6 s, a stage 0.1 s
IDLE_TIMEOUT_S = 30.0  # of which so long without anything written: MLflow hangs
MAX_ATTEMPTS = 3  # of one event while MLflow itself is well


class Lineage:
    """The MLflow runs of one campaign. Use it while holding the campaign's lock."""

    def __init__(self, tracking_uri: str, campaign_dir: Path) -> None:
        self.tracking_uri = tracking_uri
        self.ids = RunIds(campaign_dir)
        self._spool = Spool(self.ids.folder / "spool.jsonl")
        self._campaign = Campaign(tracking_uri, campaign_dir.name, self.ids)
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._postponed: list[Event] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # stages that run side by side tell at the same time
        self._down_until = 0.0
        self._current: Event | None = None
        self._num_tried = 0
        self._abandoned = False

    def __enter__(self) -> "Lineage":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start_campaign(self, params: Mapping[str, Any]) -> None:
        """The campaign runs (again). What is known is left alone until something new happens."""
        if self.ids.read("identity") and not database_exists(self.tracking_uri):
            self.ids.set_aside()  # it was deleted: everything is told to a new one
        event = CampaignStarted(at_ms=_now(), params=dict(params))
        if self.ids.read("campaign") and self.ids.params() == event.params:
            self._postponed.append(event)
        else:
            self._put(event)

    def start_round(self, index: int) -> None:
        event = RoundStarted(at_ms=_now(), round_index=index)
        if self.ids.is_finished(round_key(index)):
            with self._lock:
                self._postponed.append(event)
        else:
            self._put(event)

    def start_stage(self, round_index: int | None, request: StageRequest) -> None:
        """Call before a stage is dispatched; a resumed stage goes on in its own run."""
        self._put(StageStarted(at_ms=_now(), round_index=round_index, request=request))

    def record_stage(
        self,
        round_index: int | None,
        request: StageRequest,
        artifact: Artifact,
        digests: Mapping[str, str],
    ) -> None:
        """The stage's artifact exists. `digests`: fingerprint -> DVC's md5, of it and its inputs.

        Calling it again for an artifact that is recorded costs one look at the disk.
        """
        if self.ids.is_finished(stage_key(request.output)):
            return
        self._put(
            StageDone(
                at_ms=_now(),
                round_index=round_index,
                request=request,
                artifact=str(artifact.path.resolve()),
                digests=dict(digests),
            )
        )

    def fail_stage(
        self, round_index: int | None, request: StageRequest, outcome: str, log_tail: str
    ) -> None:
        """The stage was tried and left no artifact."""
        self._put(
            StageFailed(
                at_ms=_now(),
                round_index=round_index,
                request=request,
                outcome=outcome,
                log_tail=log_tail,
            )
        )

    def finish_round(self, index: int, decision: Mapping[str, Any] | None = None) -> None:
        """`decision`: what alarms said and did after it (flows/decisions.py)."""
        if not self.ids.is_finished(round_key(index)):
            told = None if decision is None else dict(decision)
            self._put(RoundFinished(at_ms=_now(), round_index=index, decision=told))

    def finish_campaign(self, status: CampaignStatus) -> None:
        """The campaign's process ends here; waits for what is still to be written, and closes."""
        unchanged = any(isinstance(event, CampaignStarted) for event in self._postponed)
        ends = status == "finished" and not self.ids.is_finished("campaign")
        if ends or not unchanged:
            self._put(CampaignFinished(at_ms=_now(), status=status))
        self.close()

    def sweep(self) -> None:
        """End this campaign's runs that a kill left RUNNING, as KILLED.

        The caller holds the campaign's lock, so whoever left them is gone.
        """
        if self.ids.any_unfinished():
            self._put(Swept(at_ms=_now()))

    def run_id(self, ref: ArtifactRef) -> str | None:
        """The MLflow run of an artifact, once it is known."""
        return self.ids.read(stage_key(ref)).get("run_id")

    def close(self) -> None:
        """Wait until everything is in MLflow or in the spool: at most a minute, and not for an
        MLflow that hangs."""
        if self._thread is None and self._spool.events():
            self._start()  # MLflow may be back since
        if self._thread is not None:
            self._events.put(None)
            if not self._flushed(self._thread):
                self._abandon()
            self._thread = None
        if waiting := len(self._spool.events()):
            log.warning(
                "MLflow did not take %d event(s): they wait in %s", waiting, self._spool.file
            )

    def _flushed(self, thread: threading.Thread) -> bool:
        """Whether the thread came to its end; given up while it still moves only after a minute."""
        started = moved = time.monotonic()
        num_tried = self._num_tried
        while thread.is_alive():
            thread.join(0.2)
            now = time.monotonic()
            if self._num_tried != num_tried:
                num_tried, moved = self._num_tried, now
            if now - started > FLUSH_TIMEOUT_S or now - moved > IDLE_TIMEOUT_S:
                return not thread.is_alive()
        return True

    def _abandon(self) -> None:
        """Leave the thread to its slow MLflow; what it has not written goes to the spool.

        The event it is at may be written twice, which leaves the same rows.
        """
        with self._lock:
            self._abandoned = True
            left = [self._current] if self._current is not None else []
            with contextlib.suppress(queue.Empty):
                while True:
                    left += [event for event in (self._events.get_nowait(),) if event is not None]
            with contextlib.suppress(OSError):
                for event in left:
                    self._spool.add(event)

    def _put(self, event: Event) -> None:
        with self._lock:
            for earlier in self._postponed:
                self._events.put(earlier)
            self._postponed.clear()
            self._events.put(event)
            self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="lineage", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._relay(force=False)
                self._current = event
                if self._is_down():
                    self._keep(event)
                elif (error := self._try(event)) is not None:
                    log.warning("MLflow did not take %s, spooled: %s", event.kind, brief(error))
                    self._keep(event)
            except OSError as error:  # a full disk: the next start brings it again
                log.error("lineage of %s is not written: %s", event.kind, brief(error))
            self._current = None
            if self._abandoned:
                return
        with contextlib.suppress(OSError):
            self._relay(force=True)

    def _keep(self, event: Event) -> None:
        with self._lock:
            if not self._abandoned:  # else it is in the spool already
                self._spool.add(event)

    def _is_down(self) -> bool:
        return time.monotonic() < self._down_until

    def _relay(self, force: bool) -> None:
        """Write what is spooled, in order, unless MLflow failed a moment ago.

        An event that MLflow refuses holds nobody back and is dropped after a few attempts: its
        artifact stays unrecorded, so the next start of the campaign brings it again.
        """
        if not self._spool.events() or (self._is_down() and not force):
            return
        self._down_until = 0.0
        kept: list[Event] = []
        for event in self._spool.events():
            if self._is_down() or self._abandoned:
                kept.append(event)
            elif (error := self._try(event)) is not None:
                if isinstance(error, Unavailable) or self._spool.attempts(event) < MAX_ATTEMPTS:
                    kept.append(event)
                else:
                    log.error("MLflow refuses %s for good, dropped: %s", event.kind, brief(error))
        with self._lock:
            if not self._abandoned:  # written again another time, which leaves the same rows
                self._spool.replace(kept)

    def _try(self, event: Event) -> Exception | None:
        try:
            self._campaign.apply(event)
        except Exception as error:  # noqa: BLE001  lineage never fails a campaign
            self._spool.count(event)
            if self._campaign.is_away(error):
                self._down_until = time.monotonic() + RETRY_AFTER_S
                return Unavailable(brief(error))
            return error
        finally:
            self._num_tried += 1
        return None


class Spool:
    """Events that wait for MLflow, one JSON line each; a line cut short by a kill is left out."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._attempts: dict[str, int] = {}
        self._events: list[Event] = []
        with contextlib.suppress(OSError):
            for line in file.read_bytes().splitlines() if file.exists() else ():
                try:
                    self._events.append(parse(line))
                except ValidationError:
                    log.warning("%s: a line that is no event is left out", file)

    def events(self) -> list[Event]:
        return list(self._events)

    def add(self, event: Event) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as stream:
            stream.write(event.model_dump_json().encode() + b"\n")
        self._events.append(event)

    def replace(self, events: list[Event]) -> None:
        lines = b"".join(event.model_dump_json().encode() + b"\n" for event in events)
        write_atomic(self.file, lines)
        self._events = events
        if not events:
            self.file.unlink()

    def count(self, event: Event) -> None:
        key = event.model_dump_json()
        self._attempts[key] = self._attempts.get(key, 0) + 1

    def attempts(self, event: Event) -> int:
        return self._attempts.get(event.model_dump_json(), 0)


def _now() -> int:
    return time.time_ns() // 1_000_000
