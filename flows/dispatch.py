"""How a stage gets computed: in a worker's child, in a job of its own, or in this process.

Every way ends in an Outcome, and whether the artifact exists is the store's word alone: a job that
"completed" without leaving one has failed, a job that died after leaving one has not.
"""

import threading
import time
from typing import Protocol

from afd.failpoints import failpoint
from afd.stages.door import execute, limit_threads
from afd.stages.mailbox import request_id
from afd.stages.outcome import EXIT_CODE, Outcome, Status, explain, status_of
from afd.stages.request import StageRequest
from afd.store import write_atomic
from flows.ledger import JobEntry, Ledger, run_door
from flows.site import GivenUpError, Site, cancelling, executor, log_tail, pause
from flows.workers import WorkerJob

MAX_LOST = 2  # attempts at one stage whose process is killed: preemption once, a bug not for ever
BUSY_RETRY_S = 1.0


class Dispatch(Protocol):
    """One way of computing stages. Thread-safe: up to `num_side_by_side` callers may wait."""

    num_side_by_side: int

    def start(self) -> None:
        """Get ready in the background: stages will be asked for soon."""
        ...

    def attempt(self, request: StageRequest) -> Outcome:
        """Compute it once and wait for the outcome; gives up the job when interrupted.

        Raises GivenUpError when this is closed, also while waiting.
        """
        ...

    def end_round(self) -> None:
        """A round is over: what was allocated for it may go."""
        ...

    def close(self) -> None:
        """Stop whatever still runs for this campaign, and start nothing from here on."""
        ...


class StageFailedError(RuntimeError):
    """A stage left no artifact; `str` is the block of text for a person."""

    def __init__(self, request: StageRequest, outcome: Outcome) -> None:
        self.request, self.outcome = request, outcome
        where = f"\n  log: {outcome.log}" if outcome.log else ""
        super().__init__(f"{outcome.message}{where}")


def compute(dispatch: Dispatch, site: Site, request: StageRequest) -> Outcome:
    """The outcome of `request`, with what is worth trying again tried again.

    lost: once more. busy: when whoever makes it has made it or is gone.
    """
    deadline = time.monotonic() + 60 * site.cluster.timeout_min
    num_lost = 0
    while True:
        outcome = dispatch.attempt(request)
        if site.store.have(request.output):
            return outcome.model_copy(update={"status": "done", "message": ""})
        match outcome.status:
            case "done":
                return outcome.model_copy(update=_no_result(request, outcome))
            case "lost" if (num_lost := num_lost + 1) < MAX_LOST:
                continue
            case "busy" if time.monotonic() < deadline:
                time.sleep(BUSY_RETRY_S)
            case _:
                return outcome


def build(site: Site) -> Dispatch:
    """The way that the cluster params name."""
    match site.cluster.executor:
        case "in_process":
            return InProcess(site)
        case "local":
            if site.cluster.allocation == "stage":
                return JobPerStage(site)
            return WorkerJob(site)


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


class JobPerStage:
    """`python -m afd.stages` as a submitit job of its own: long stages, wide machines."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._ledger = Ledger(site.folder / "ledger")
        self.num_side_by_side = site.cluster.num_children
        self._lock = threading.Lock()
        self._waited_for: list[JobEntry] = []
        self._closed = False

    def attempt(self, request: StageRequest) -> Outcome:
        started = time.monotonic()
        name = request_id(request)
        with self._lock:
            self._check_open()
            entry = self._ledger.read(name)
            if entry is None or not entry.is_alive():
                entry = self._submit(request, name)
            self._waited_for.append(entry)
        with cancelling(entry.cancel):
            while entry.is_alive() and not self._site.store.have(request.output):
                self._check_open()
                pause(time.monotonic() - started)
        self._waited_for.remove(entry)
        if self._site.store.have(request.output):
            return Outcome(
                status="done",
                message="",
                exit_code=0,
                wall_s=time.monotonic() - started,
                log=entry.log,
            )
        self._check_open()
        self._ledger.forget(name)
        code = entry.exit_code()
        by_code: dict[int, Status] = {value: known for known, value in EXIT_CODE.items()}
        status = by_code.get(code, "lost")
        return Outcome(
            status=status,
            message="" if status == "done" else log_tail(entry.log),
            exit_code=code,
            wall_s=time.monotonic() - started,
            log=entry.log,
        )

    def _submit(self, request: StageRequest, name: str) -> JobEntry:
        folder = self._site.folder / "ledger"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.request.json"
        write_atomic(file, request.model_dump_json().encode())
        failpoint("flow.request_written")
        job = executor(self._site, f"afd-{name}"[:32]).submit(
            run_door,
            request.stage,
            str(file.resolve()),
            str(self._site.store.root.resolve()),
            self._site.cluster.num_threads,
        )
        return self._ledger.write(name, job)

    def start(self) -> None: ...

    def end_round(self) -> None: ...

    def close(self) -> None:
        """Cancel the jobs that are waited for."""
        self._closed = True
        with self._lock:
            for entry in self._waited_for:
                entry.cancel()

    def _check_open(self) -> None:
        if self._closed:
            raise GivenUpError("the campaign ends: its jobs are cancelled")


def _no_result(request: StageRequest, outcome: Outcome) -> dict[str, str]:
    return {
        "status": "failed",
        "message": (
            f"{request.stage}: its process ended well but left no artifact\n"
            f"{log_tail(outcome.log)}\n  run the same command again"
        ),
    }
