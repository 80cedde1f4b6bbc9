"""MLflow run recorder: a thread that records a campaign without delaying it.

The thread projects the campaign's folder and store into MLflow (runs.py) after every stage, every
few seconds while one computes, and at the end. A server that is away costs the campaign nothing:
nothing is queued, the next sync finds what is missing, and `afd sync` is one without a campaign.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from afd.artifacts import ArtifactRef
from afd.runtime.request import StageRequest
from afd.store import Store
from flows.command_text import command
from flows.mlflow_runs.client import Unavailable, brief
from flows.mlflow_runs.facts import note_begun, note_outcome
from flows.mlflow_runs.projection import ended_ms
from flows.mlflow_runs.run_ids import CampaignEnding, RunIds, stage_key
from flows.mlflow_runs.runs import CampaignRuns

log = logging.getLogger(__name__)
LIVE_S = 5.0  # between two reads of a running stage's curve
RETRY_AFTER_S = 30.0  # how long a server is left alone after it failed
# How long a campaign's end waits: at most, and for how long without an answer.
SERVER_PATIENCE_S, SERVER_SILENCE_S = 20.0, 5.0
FILE_PATIENCE_S, FILE_SILENCE_S = 180.0, 60.0  # a database file is slow at worst; a new one: 6 s


class RunRecorder:
    """Recorder of one campaign. Use it while holding the campaign's lock; thread-safe."""

    def __init__(self, tracking_uri: str, folder: Path, store: Store) -> None:
        self.tracking_uri = tracking_uri
        self.ids = RunIds(folder)
        self._folder, self._store = folder, store
        self._runs = CampaignRuns(tracking_uri, folder, store)
        self._lock = threading.Lock()  # stages that compute side by side report at the same time
        self._running: set[str] = set()
        self._begun: set[str] = set()
        self._wake = threading.Event()
        self._ending: CampaignEnding | None = None
        self._thread: threading.Thread | None = None
        self._trouble = ""  # of the last sync
        self._down_until = 0.0

    def open(self) -> None:
        """Record the campaign from now on; runs that a kill left RUNNING are ended."""
        self.sync_soon()

    @contextlib.contextmanager
    def computing(self, round_index: int | None, request: StageRequest) -> Iterator[None]:
        """Record a stage as RUNNING, with its curve, inside the block."""
        key = stage_key(request.output)
        with self._noted():
            note_begun(self._folder, request, round_index, time.time_ns() // 1_000_000)
        with self._lock:
            self._running.add(key)
            self._begun.add(key)
        self.sync_soon()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(key)

    def record(self, round_index: int | None, request: StageRequest) -> None:
        """Record the artifact of a stage, computed or found; a second call reads one small file."""
        ref = request.output
        if self.ids.is_finished(stage_key(ref)):
            return
        if stage_key(ref) not in self._begun:  # it was there
            with self._noted():
                manifest = self._store.load(ref).manifest
                began = ended_ms(manifest) - round(manifest.wall_s * 1000)
                note_begun(self._folder, request, round_index, began)
        self.sync_soon()

    def fail(self, request: StageRequest, outcome: str, log_tail: str) -> None:
        """Record an attempt at a stage that left no artifact."""
        with self._noted():
            note_outcome(self._folder, request.output, outcome, log_tail)
        self.sync_soon()

    def run_id(self, ref: ArtifactRef) -> str | None:
        """Return the MLflow run of an artifact, once it is known."""
        return self.ids.read(stage_key(ref)).get("run_id")

    def close(self, status: CampaignEnding) -> None:
        """End the campaign's runs; wait for that at most as long as `_is_done` allows."""
        self._ending = status
        self._down_until = 0.0  # it may be back
        self.sync_soon()
        thread, self._thread = self._thread, None
        if thread is not None and not self._is_done(thread):
            self._runs.is_abandoned = True
            self._trouble = self._trouble or "it has not answered in time"
        if self._trouble:
            sync = command("sync", self._folder.name, runs=self._folder.parent)
            log.warning(
                "MLflow does not have all of %s (%s); nothing is lost: its next start or `%s` "
                "records the rest", self._folder.name, self._trouble, sync,
            )  # fmt: skip

    def _is_done(self, thread: threading.Thread) -> bool:
        """Return whether the thread ends within the patience for a server or a database file."""
        is_server = self.tracking_uri.startswith("http")
        patience = SERVER_PATIENCE_S if is_server else FILE_PATIENCE_S
        silence = SERVER_SILENCE_S if is_server else FILE_SILENCE_S
        started = moved = now = time.monotonic()
        num_calls = self._runs.writer.num_calls
        while thread.is_alive() and now - started <= patience and now - moved <= silence:
            thread.join(0.05)
            now = time.monotonic()
            if self._runs.writer.num_calls != num_calls:
                num_calls, moved = self._runs.writer.num_calls, now
        return not thread.is_alive()

    def sync_soon(self) -> None:
        """Start a sync in the thread; return at once."""
        with self._lock:
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while not self._runs.is_abandoned:
            self._wake.wait(LIVE_S)
            self._wake.clear()
            ending = self._ending
            if time.monotonic() >= self._down_until:
                self._sync(ending)
            if ending is not None:
                return

    def _sync(self, ending: CampaignEnding | None) -> None:
        with self._lock:
            running = frozenset(self._running)
        try:
            self._runs.sync(running, ending)
            self._trouble = ""
        except Exception as error:  # a record never fails a campaign
            if self._trouble:
                pass  # reported
            elif isinstance(error, Unavailable):
                log.warning("MLflow is away, the campaign goes on without: %s", brief(error))
            elif isinstance(error, OSError):  # a full disk, a folder that is a file
                log.error("what MLflow has is not written to disk: %s", brief(error))
            else:
                log.exception("MLflow is not told: %s", brief(error))
            self._trouble = brief(error)
            if not isinstance(error, OSError):
                self._down_until = time.monotonic() + RETRY_AFTER_S

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Log an OSError of a note instead of raising it: only MLflow lacks a stage for now."""
        try:
            yield
        except OSError as error:
            log.error("a note for MLflow is not written: %s", brief(error))
