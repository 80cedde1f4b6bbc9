"""Dispatch of stages to the children of one worker (afd/stages/worker.py).

The worker lives as long as the allocation says. When its time is over, or it dies, another one
starts, and the stage goes on from its checkpoint.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Sequence

from afd.failpoints import failpoint
from afd.runtime.outcome import Outcome
from afd.runtime.parts import Gather, Part, Piece, max_parts, missing
from afd.runtime.request import StageRequest
from flows.jobs.diagnosis import rejected, unreachable
from flows.jobs.pace import Pace
from flows.jobs.records import JobRecords
from flows.jobs.scheduler import SchedulerError
from flows.jobs.site import MAX_POLL_S, GivenUpError, Site, cancelling, pause
from flows.jobs.submit import TAKES_S, RejectedError
from flows.jobs.worker_handle import WorkerHandle, reattach, start_worker


class WorkerJob:
    """Stages as children of one worker, which lives as long as the allocation says."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.num_side_by_side = site.cluster.num_children
        self._ledger = JobRecords(site.folder / "ledger")
        self._lock = threading.Lock()
        self._worker: WorkerHandle | None = None
        self._closed = False
        self._pace = Pace()

    def start(self) -> None:
        """Reattach to a worker or start one, which imports in the background."""
        with contextlib.suppress(RejectedError, SchedulerError):  # reported with the first stage
            self._have_worker(patience_s=0.0)

    def attempt(self, request: StageRequest) -> Outcome:
        """Ask the worker and wait; parts side by side, then what puts them together.

        A worker that died is an outcome `lost`, one whose time was over `stopped`. Raises
        GivenUpError when this is closed, also while waiting.
        """
        try:
            worker = self._have_worker()
        except RejectedError as error:
            return rejected("worker", str(error))
        except SchedulerError as error:
            return unreachable(request.stage, error)
        num_parts = self._num_parts(request)
        if num_parts == 1:
            return self._request(worker, request, [None])
        lacking = missing(self._site.store, request, num_parts)
        parts = [Part(index=index, num_parts=num_parts) for index in lacking]
        outcome = self._request(worker, request, parts)
        if outcome.status != "done":
            return outcome
        return self._request(worker, request, [Gather(num_parts=num_parts)])

    def end_round(self) -> None:
        if self._site.cluster.allocation == "round":
            self._stop_worker()

    def close(self) -> None:
        """Stop the worker, for good: whoever waits for it gives up and starts no other."""
        self._closed = True
        self._stop_worker()

    def _num_parts(self, request: StageRequest) -> int:
        """More parts than children would only wait for each other."""
        table = self._site.cluster.resources
        if self._site.cluster.executor != "slurm" or table is None:
            return 1
        wanted = min(table.of(request.stage).num_parts, self._site.cluster.num_children)
        return min(wanted, max_parts(request))

    def _request(
        self, worker: WorkerHandle, request: StageRequest, pieces: Sequence[Piece | None]
    ) -> Outcome:
        """Return the first outcome that is not `done`, else `done` when all are."""
        started = time.monotonic()
        box = worker.box
        names = [box.submit(request, piece) for piece in pieces]
        failpoint("flow.request_written")
        left = set(names)

        def give_up() -> None:
            for name in left:
                box.cancel(name)

        with cancelling(give_up):
            while left and not self._site.store.have(request.output):
                for name in sorted(left):
                    outcome = box.outcome(name)
                    if outcome is None and not worker.is_alive():
                        outcome = worker.how_it_died(name, time.monotonic() - started)
                    if outcome is not None and outcome.status != "done":
                        return self._ended_early(worker, left - {name}, outcome)
                    if outcome is not None:
                        left.remove(name)
                self._check_open()
                pause(time.monotonic() - started)
        wall_s = time.monotonic() - started
        return Outcome(status="done", message="", exit_code=0, wall_s=wall_s, log=None)

    def _ended_early(self, worker: WorkerHandle, others: set[str], outcome: Outcome) -> Outcome:
        if outcome.status == "lost":
            self._check_open()  # whoever closed it had the child killed
        if outcome.status not in ("lost", "stopped"):  # else the others go on meanwhile
            for name in others:
                worker.box.cancel(name)
        return outcome

    def _check_open(self) -> None:
        if self._closed:
            raise GivenUpError("the campaign ends: its worker is stopped")

    def _stop_worker(self) -> None:
        """Stop the worker and its children, which go on from their checkpoints."""
        with self._lock:
            if self._worker is not None:
                self._worker.stop()
            self._worker = None

    def _have_worker(self, patience_s: float = TAKES_S) -> WorkerHandle:
        with self._lock:
            self._check_open()
            if self._worker is not None and not self._worker.is_alive():
                self._worker.stop()  # one that only said nothing must not go on beside the next
                self._worker = None
            if self._worker is None:
                self._keep_pace()
                how = (self._site, self._ledger, self._check_open, patience_s)
                self._worker = reattach(*how) or start_worker(*how)
            return self._worker

    def _keep_pace(self) -> None:
        """Wait until another job may be submitted: whatever ends them, they are bounded."""
        if self._site.cluster.executor != "slurm":
            return
        if (left_s := self._pace.left_s((0,))) > 0:
            sys.stderr.write(f"worker: {self._pace.words}; the next in {left_s:.0f} s\n")
        while self._pace.left_s((0,)) > 0:
            self._check_open()
            time.sleep(MAX_POLL_S)
        self._pace.note((0,))
