"""Dispatch of a stage: to a worker's child, to a job of its own, or to this process.

Every way ends in an Outcome, and the store alone decides whether the artifact exists: a job that
"completed" without leaving one has failed, a job that died after leaving one has not.
"""

import threading
import time
from typing import Protocol

from afd.errors import EXIT_CODE, Status, UserError
from afd.failpoints import failpoint
from afd.runtime.mailbox import request_id
from afd.runtime.outcome import Outcome, explain, status_of
from afd.runtime.request import StageRequest, needs_network
from afd.runtime.workspace import reached
from afd.stages.execute import execute, limit_threads
from afd.store import write_atomic
from flows.jobs import scheduler
from flows.jobs.diagnosis import BY_CODE, left_exit_code
from flows.jobs.inside import StageJob, run_stage
from flows.jobs.records import JobRecords, StageRecord, now
from flows.jobs.site import GivenUpError, Site, cancelling, comes, log_tail, pause
from flows.jobs.slurm import SlurmJobs
from flows.jobs.submit import new_token, refuse_odd_paths, submit_local
from flows.jobs.workers import WorkerJob

MAX_IDLE = 2  # attempts at one stage that are killed and leave nothing new: a bug, not bad luck
BUSY_RETRY_S = 1.0


class Dispatch(Protocol):
    """One way of computing stages. Thread-safe: up to `num_side_by_side` callers may wait."""

    num_side_by_side: int

    def start(self) -> None:
        """Get ready in the background: stages follow soon."""
        ...

    def attempt(self, request: StageRequest) -> Outcome:
        """Compute it once and wait for the outcome; gives up the job when interrupted.

        Raises GivenUpError when this is closed, also while waiting.
        """
        ...

    def end_round(self) -> None:
        """Release what was allocated for the round that has ended."""
        ...

    def close(self) -> None:
        """Stop whatever still runs for this campaign, and start nothing from here on."""
        ...


class StageFailedError(UserError):
    """A stage left no artifact; `str` is the block of text for a person."""

    def __init__(self, request: StageRequest, outcome: Outcome) -> None:
        self.request, self.outcome = request, outcome
        where = f"\n  log: {outcome.log}" if outcome.log else ""
        super().__init__(f"{outcome.message}{where}")


def compute(dispatch: Dispatch, site: Site, request: StageRequest) -> Outcome:
    """Return the outcome of `request`, after the retries that its status allows.

    lost, stopped: once more, and as often as each attempt leaves more than the one before it.
    busy: when whoever makes it has made it or is gone.
    """
    deadline = time.monotonic() + 60 * site.cluster.timeout_min
    num_idle, before = 0, reached(site.store, request)
    while True:
        outcome = dispatch.attempt(request)
        if site.store.have(request.output):
            return outcome.model_copy(update={"status": "done", "message": ""})
        match outcome.status:
            case "done":
                if site.cluster.executor == "slurm" and comes(site.store, request.output):
                    return outcome.model_copy(update={"message": ""})
                return outcome.model_copy(update=_no_result(request, outcome))
            case "lost" | "stopped":
                now_reached = reached(site.store, request)
                num_idle = num_idle + 1 if now_reached == before else 0
                before = now_reached
                if num_idle >= MAX_IDLE:
                    return outcome
            case "busy" if time.monotonic() < deadline:
                time.sleep(BUSY_RETRY_S)
            case _:
                return outcome


def build(site: Site) -> Dispatch:
    """Return the dispatch that the cluster params name."""
    by_stage = site.cluster.allocation == "stage"
    match site.cluster.executor:
        case "in_process":
            return InProcess(site)
        case "local":
            return LocalJobs(site) if by_stage else WorkerJob(site)
        case "slurm":
            refuse_odd_paths(site)
            return OnCluster(site, SlurmJobs(site) if by_stage else WorkerJob(site))


class InProcess:
    """Compute right here: for tests and debuggers. Imports torch into this process."""

    num_side_by_side = 1

    def __init__(self, site: Site) -> None:
        limit_threads(site.cluster.num_threads)
        self._site = site

    def attempt(self, request: StageRequest) -> Outcome:
        started = time.monotonic()
        failpoint("flow.request_written")
        status: Status = "done"
        message = ""
        try:
            execute(request, self._site.store, self._site.cluster.num_threads)
        except Exception as error:  # noqa: BLE001 (every way of computing ends in an outcome)
            status = status_of(error)
            message = explain(error, request.stage, self._site.store.root)
        return Outcome(
            status=status,
            message=message,
            exit_code=EXIT_CODE[status],
            wall_s=time.monotonic() - started,
            log=None,
        )

    def start(self) -> None: ...

    def end_round(self) -> None: ...

    def close(self) -> None: ...


class LocalJobs:
    """`python -m afd.stages` as a submitit job of this machine."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._ledger = JobRecords(site.folder / "ledger")
        self.num_side_by_side = site.cluster.num_children
        self._lock = threading.Lock()
        self._waited_for: list[StageRecord] = []
        self._closed = False

    def attempt(self, request: StageRequest) -> Outcome:
        started = time.monotonic()
        name = request_id(request)
        with self._lock:
            self._check_open()
            entry = self._ledger.read(name)
            # Whoever asks holds the campaign: what another host may still compute is given up.
            if entry is None or entry.ended or not scheduler.runs_here(entry.jobs):
                entry = self._submit(request, name, entry)
            self._waited_for.append(entry)
        with cancelling(lambda: self._cancel(entry)):
            while scheduler.runs_here(entry.jobs) and not self._site.store.have(request.output):
                self._check_open()
                pause(time.monotonic() - started)
        self._waited_for.remove(entry)
        wall_s = time.monotonic() - started
        if self._site.store.have(request.output):
            self._ledger.end(name, "done")
            return Outcome(status="done", message="", exit_code=0, wall_s=wall_s, log=entry.log)
        self._check_open()
        code = left_exit_code(entry.log)
        status: Status = "lost" if code is None else BY_CODE.get(code, "lost")
        message = "" if status == "done" else log_tail(entry.log)
        self._ledger.end(name, status, message)
        code = -9 if code is None else code
        return Outcome(status=status, message=message, exit_code=code, wall_s=wall_s, log=entry.log)

    def _submit(self, request: StageRequest, name: str, before: StageRecord | None) -> StageRecord:
        if before is not None and not before.ended:  # left on another host, or in SLURM's queue
            scheduler.give_up(self._ledger, before.jobs)
        file = self._ledger.request_file(name)
        write_atomic(file, request.model_dump_json().encode())
        failpoint("flow.request_written")
        token = new_token()
        stage_job = StageJob(
            stage=request.stage,
            request=str(file.resolve()),
            store=str(self._site.store.root.resolve()),
            num_threads=self._site.cluster.num_threads,
            hang_s=self._site.cluster.hang_s,
            cancelled=str(self._ledger.cancelled_file(token).resolve()),
        )
        job = submit_local(self._site, f"afd-{name}", run_stage, stage_job)
        return self._ledger.write(
            StageRecord(
                name=name,
                stage=request.stage,
                fingerprint=request.output.fingerprint,
                folder=str(self._site.submitit),
                jobs=(job.model_copy(update={"token": token}),),
                attempts=1 if before is None else before.attempts + 1,
                submitted_at=now(),
            )
        )

    def start(self) -> None: ...

    def end_round(self) -> None: ...

    def close(self) -> None:
        """Cancel the jobs that are waited for."""
        self._closed = True
        with self._lock:
            for entry in self._waited_for:
                self._cancel(entry)

    def _cancel(self, entry: StageRecord) -> None:
        scheduler.give_up(self._ledger, entry.jobs)
        self._ledger.end(entry.name, "cancelled", "given up; the next command goes on")

    def _check_open(self) -> None:
        if self._closed:
            raise GivenUpError("the campaign ends: its jobs are cancelled")


class OnCluster:
    """SLURM for what computes; what needs the network runs on the head, where there is one."""

    def __init__(self, site: Site, computing: Dispatch) -> None:
        self._computing = computing
        self._on_head = LocalJobs(site)
        self.num_side_by_side = computing.num_side_by_side

    def attempt(self, request: StageRequest) -> Outcome:
        chosen = self._on_head if needs_network(request) else self._computing
        return chosen.attempt(request)

    def start(self) -> None:
        self._computing.start()

    def end_round(self) -> None:
        self._computing.end_round()

    def close(self) -> None:
        self._on_head.close()
        self._computing.close()


def _no_result(request: StageRequest, outcome: Outcome) -> dict[str, str]:
    return {
        "status": "failed",
        "message": (
            f"{request.stage}: its process ended well but left no artifact\n"
            f"{log_tail(outcome.log)}\n  run the same command again"
        ),
    }
