"""The worker seen from the flow: one submitit job that computes many stages (afd/stages/worker.py).

The worker of a killed flow is adopted when it holds the same code, and stopped when it does not.
"""

import contextlib
import threading
import time
import uuid
from pathlib import Path

from afd.failpoints import failpoint
from afd.stages.mailbox import Mailbox, code_digest
from afd.stages.outcome import Outcome
from afd.stages.request import StageRequest
from afd.stages.worker import Job, serve
from flows.ledger import JobEntry, Ledger
from flows.site import POLL_S, GivenUpError, Site, cancelling, executor, log_tail, pause

WORKER = "worker"


class WorkerJob:
    """Stages as children of one worker, which lives as long as the allocation says."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.num_side_by_side = site.cluster.num_children
        self._ledger = Ledger(site.folder / "ledger")
        self._lock = threading.Lock()
        self._worker: tuple[JobEntry, Mailbox] | None = None
        self._closed = False

    def start(self) -> None:
        """Have a worker, importing in the background if it is new."""
        self._have_worker()

    def attempt(self, request: StageRequest) -> Outcome:
        """Ask the worker and wait. A worker that died is an outcome `lost`.

        Raises GivenUpError when this is closed, also while waiting.
        """
        started = time.monotonic()
        entry, box = self._have_worker()
        name = box.ask(request)
        failpoint("flow.request_written")
        with cancelling(lambda: box.cancel(name)):
            while (outcome := box.outcome(name)) is None:
                if self._site.store.have(request.output):
                    break
                self._check_open()
                if not entry.is_alive():
                    return self._worker_died(entry, box, name, time.monotonic() - started)
                pause(time.monotonic() - started)
        if outcome is not None:
            if outcome.status == "lost":
                self._check_open()  # whoever closed it had the child killed
            return outcome
        wall_s = time.monotonic() - started
        return Outcome(status="done", message="", exit_code=0, wall_s=wall_s, log=None)

    def end_round(self) -> None:
        if self._site.cluster.allocation == "round":
            self._stop_worker()

    def close(self) -> None:
        """Stop the worker, for good: whoever waits for it gives up and starts no other."""
        self._closed = True
        self._stop_worker()

    def _check_open(self) -> None:
        if self._closed:
            raise GivenUpError("the campaign ends: its worker is stopped")

    def _stop_worker(self) -> None:
        """It kills what it still computes (which goes on from its checkpoint)."""
        with self._lock:
            if self._worker is None:
                return
            _stop(*self._worker)
            self._worker = None
            self._ledger.forget(WORKER)

    def _have_worker(self) -> tuple[JobEntry, Mailbox]:
        with self._lock:
            self._check_open()
            if self._worker is not None and self._worker[0].is_alive():
                return self._worker
            self._worker = self._adopt() or self._submit()
            return self._worker

    def _adopt(self) -> tuple[JobEntry, Mailbox] | None:
        """The worker that an earlier, killed flow of this campaign left, if it will do."""
        entry = self._ledger.read(WORKER)
        if entry is None or not entry.is_alive():
            return None
        box = Mailbox(Path(entry.note))
        box.own()
        heartbeat = box.heartbeat()
        if self._fits(box) and (heartbeat is None or heartbeat.code == code_digest()):
            return entry, box
        _stop(entry, box)
        return None

    def _fits(self, box: Mailbox) -> bool:
        return box.folder.name.startswith(self._prefix) and not box.is_stopped()

    @property
    def _prefix(self) -> str:
        cluster = self._site.cluster
        return f"{cluster.num_children}x{cluster.num_threads}-"

    def _submit(self) -> tuple[JobEntry, Mailbox]:
        folder = self._site.folder / "workers" / f"{self._prefix}{uuid.uuid4().hex[:8]}"
        box = Mailbox(folder.resolve()).create()
        box.own()
        job = executor(self._site, "afd-worker").submit(
            serve,
            Job(
                mailbox=box.folder,
                store=self._site.store.root.resolve(),
                logs=self._site.logs.resolve(),
                num_threads=self._site.cluster.num_threads,
                num_children=self._site.cluster.num_children,
            ),
        )
        return self._ledger.write(WORKER, job, note=str(box.folder)), box

    def _worker_died(self, entry: JobEntry, box: Mailbox, name: str, wall_s: float) -> Outcome:
        outcome = box.outcome(name)  # it may have finished this very request and ended
        if outcome is not None:
            return outcome
        heartbeat = box.heartbeat()
        before = heartbeat is None or heartbeat.state == "loading"
        what = "died while importing the stages" if before else "was killed"
        return Outcome(
            status="failed" if before else "lost",
            message=(
                f"{name}: the worker (job {entry.job_id}) {what}\n{log_tail(entry.log)}\n"
                "  every finished artifact and the stage's last checkpoint are kept\n"
                "  run the same command again to go on from there"
            ),
            exit_code=1 if before else -9,
            wall_s=wall_s,
            log=entry.log,
        )


def _stop(entry: JobEntry, box: Mailbox) -> None:
    """Ask first: the worker collects its children; then end the job."""
    with contextlib.suppress(FileNotFoundError):
        box.stop()
    deadline = time.monotonic() + 2.0
    while entry.is_alive() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    entry.cancel()
