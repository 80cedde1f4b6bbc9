"""Handle of a worker: reattached from an earlier head or started anew; its liveness and its end.

On this machine it is a process. On SLURM it is one job: the scheduler and, once it runs, its
heartbeat decide whether it lives. A worker without a heartbeat counts as dead in any state.
"""

import contextlib
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from afd.failpoints import failpoint
from afd.runtime.child import Job
from afd.runtime.mailbox import Mailbox, code_digest
from afd.runtime.outcome import Outcome
from afd.stages.worker import serve
from flows.jobs import scheduler
from flows.jobs.diagnosis import KEEPS, EndedTask, diagnose
from flows.jobs.poller import Poller, poller
from flows.jobs.records import WORKER, JobRecords, Seen, StageRecord, now
from flows.jobs.records import Job as Submission
from flows.jobs.scheduler import SchedulerError, is_live
from flows.jobs.site import POLL_S, Site, log_tail
from flows.jobs.submit import (
    TAKES_S,
    RejectedError,
    adopted,
    new_token,
    patiently,
    sections,
    submit_local,
    submit_patiently,
    submit_slurm,
)

OWN_EVERY_S = 10.0  # between two marks that tell a worker on another host of its owner


class WorkerHandle:
    """One worker and its mailbox. Thread-safe."""

    def __init__(self, site: Site, ledger: JobRecords, entry: StageRecord) -> None:
        self._site, self._ledger, self.entry = site, ledger, entry
        self.box = Mailbox(Path(entry.note))
        self._beat: tuple[int, int] | None = None
        self._heard_at = self._owned_at = time.monotonic()
        self._seen: Seen | None = None
        self._is_over = False
        self.box.own()

    def is_alive(self) -> bool:
        """Return whether it runs or is queued."""
        if self._is_over:
            return False
        if self.entry.kind == "local":
            return scheduler.runs_here(self.entry.jobs)
        if time.monotonic() - self._owned_at > OWN_EVERY_S:
            self._owned_at = time.monotonic()
            self.box.own()
        known = self._poller.look(self.entry.jobs)
        if known is None:
            return True
        seen = known.get(self.entry.job_id)
        if seen is not None and seen.state == "UNSEEN":
            return self._is_heard(running=True)
        self._seen = seen
        if seen is None or not is_live(seen):
            return False
        self._keep(seen)
        return self._is_heard(running=seen.state == "RUNNING")

    def fits(self) -> bool:
        """Return whether an earlier head's worker fits: as many children, the same code."""
        heartbeat = self.box.heartbeat()
        same_code = heartbeat is None or heartbeat.code == code_digest()
        right = self.box.folder.name.startswith(_prefix(self._site))
        return right and same_code and not self.box.is_stopped()

    def stop(self) -> None:
        """Ask first: the worker collects its children; then end the job, wherever it is."""
        with contextlib.suppress(FileNotFoundError):
            self.box.stop()
        deadline = time.monotonic() + 2.0
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self._is_over = True
        if self.entry.kind == "slurm":
            self._poller.drop(self.entry.jobs)
        _let_go(self._ledger, self.entry)

    def how_it_died(self, name: str, wall_s: float) -> Outcome:
        """Return the outcome of request `name` of a worker that is not alive."""
        outcome = self.box.outcome(name)  # it may have finished this very request and ended
        if outcome is not None:
            return outcome
        if self.entry.kind == "slurm":
            return self._slurm_outcome(wall_s)
        heartbeat = self.box.heartbeat()
        before = heartbeat is None or heartbeat.state == "loading"
        what = "died while importing the stages" if before else "was killed"
        log = self.entry.log
        return Outcome(
            status="failed" if before else "lost",
            message=(
                f"{name}: the worker (job {self.entry.job_id}) {what}\n{log_tail(log)}\n"
                f"  {KEEPS}\n  run the same command again to go on from there"
            ),
            exit_code=1 if before else -9,
            wall_s=wall_s,
            log=log,
        )

    def _slurm_outcome(self, wall_s: float) -> Outcome:
        slurm, resources = sections(self._site.cluster, WORKER)
        job_id = self.entry.job_id
        seen = self._seen
        if is_live(seen):
            scheduler.give_up(self._ledger, self.entry.jobs)
            message = (
                f"the worker (job {job_id}) has said nothing for {slurm.silent_s} s; its job is "
                f"cancelled\n{log_tail(self.entry.log)}\n  {KEEPS}"
            )
            self._ledger.end(WORKER, "lost", message)
            log = self.entry.log
            return Outcome(status="lost", message=message, exit_code=-9, wall_s=wall_s, log=log)
        if seen is not None and seen.state == "COMPLETED":
            message = f"the worker (job {job_id}) ended: its time was nearly over"
            self._ledger.end(WORKER, "stopped", message)
            return Outcome(status="stopped", message=message, exit_code=6, wall_s=wall_s, log=None)
        ended = EndedTask(job_id, WORKER, seen, partial(self.entry.log_of, job_id), resources)
        outcome = diagnose(ended, wall_s).outcome
        self._ledger.end(WORKER, outcome.status, outcome.message)
        return outcome

    @property
    def _poller(self) -> Poller:
        return poller(sections(self._site.cluster, WORKER)[0].poll_s)

    def _is_heard(self, *, running: bool) -> bool:
        """Return whether its heartbeat changes, by this process's clock: clocks of hosts differ."""
        heartbeat = self.box.heartbeat()
        beat = None if heartbeat is None else (heartbeat.term, heartbeat.beat)
        if beat != self._beat or not running:
            self._beat, self._heard_at = beat, time.monotonic()
        silent_s = sections(self._site.cluster, WORKER)[0].silent_s
        return time.monotonic() - self._heard_at < silent_s

    def _keep(self, seen: Seen) -> None:
        """Leave what is known for `afd status`, when it has changed."""
        job = self.entry.jobs[-1]
        if job.seen.get(job.job_id) == seen:
            return
        job = job.model_copy(update={"seen": {job.job_id: seen}, "seen_at": now()})
        jobs = (*self.entry.jobs[:-1], job)
        self.entry = self._ledger.write(self.entry.model_copy(update={"jobs": jobs}))


def reattach(
    site: Site,
    ledger: JobRecords,
    check_open: Callable[[], None],
    patience_s: float = TAKES_S,
) -> WorkerHandle | None:
    """Return the worker of an earlier, killed head of this campaign if it fits; else stop it.

    Raises SchedulerError, and what `check_open` raises.
    """
    entry = ledger.read(WORKER)
    if entry is None or entry.ended:
        return None
    if (entry.kind == "slurm") != (site.cluster.executor == "slurm"):
        _let_go(ledger, entry)  # the campaign computes elsewhere now
        return None
    if not entry.job_id:  # killed before sbatch had answered
        found = patiently(partial(adopted, entry.jobs[-1]), check_open, patience_s)
        if found is None:
            _let_go(ledger, entry)
            return None
        entry = entry.with_job(found, now())
    worker = WorkerHandle(site, ledger, entry)
    if worker.is_alive() and worker.fits():
        return worker
    worker.stop()  # also one of another host, whose liveness is not known here
    return None


def start_worker(
    site: Site,
    ledger: JobRecords,
    check_open: Callable[[], None],
    patience_s: float = TAKES_S,
) -> WorkerHandle:
    """Start a worker, which loads or is queued.

    Raises RejectedError, SchedulerError, and what `check_open` raises.
    """
    folder = site.folder / "workers" / f"{_prefix(site)}{uuid.uuid4().hex[:8]}"
    box = Mailbox(folder.resolve()).create()
    box.own()
    before = ledger.read(WORKER)
    entry = StageRecord(
        name=WORKER,
        stage=WORKER,
        fingerprint="",
        folder=str(site.submitit),
        jobs=(),
        attempts=0 if before is None else before.attempts,
        submitted_at=now(),
        note=str(box.folder),
    )
    if site.cluster.executor == "slurm":
        planned = Submission(job_id="", kind="slurm", token=new_token())
        entry = ledger.write(entry.with_job(planned, now()))
    try:
        submit = partial(_submitted, site, box, entry)
        if site.cluster.executor == "slurm":
            job = submit_patiently(submit, entry.jobs[-1], check_open, patience_s)
            failpoint("flow.job_submitted")
        else:
            job = submit()
        entry = ledger.write(entry.with_job(job, now()))
    except (RejectedError, SchedulerError):
        raise  # what SLURM took although it did not answer is adopted later
    except BaseException:  # Ctrl-C: a worker without a record would wait for ever
        _let_go(ledger, entry)
        raise
    return WorkerHandle(site, ledger, entry)


def _submitted(site: Site, box: Mailbox, entry: StageRecord) -> Submission:
    if site.cluster.executor != "slurm":
        return submit_local(site, "afd-worker", serve, _job_args(site, box))
    slurm, resources = sections(site.cluster, WORKER)
    limit_s = 60.0 * resources.minutes
    job_args = _job_args(site, box, limit_s=limit_s, grace_s=min(slurm.warn_s, limit_s / 2))
    name = f"afd-worker-{site.folder.name}"
    return submit_slurm(site, name, entry.jobs[-1].token, WORKER, serve, job_args)


def _let_go(ledger: JobRecords, entry: StageRecord) -> None:
    """End a worker without requests, also where the scheduler does not reach it."""
    with contextlib.suppress(FileNotFoundError):
        Mailbox(Path(entry.note)).stop()
    scheduler.give_up(ledger, entry.jobs)
    ledger.end(WORKER, "stopped")


def _job_args(
    site: Site, box: Mailbox, *, limit_s: float | None = None, grace_s: float = 30.0
) -> Job:
    return Job(
        mailbox=box.folder,
        store=site.store.root.resolve(),
        logs=site.logs.resolve(),
        num_threads=site.cluster.num_threads,
        num_children=site.cluster.num_children,
        hang_s=site.cluster.hang_s,
        limit_s=limit_s,
        grace_s=grace_s,
    )


def _prefix(site: Site) -> str:
    return f"{site.cluster.num_children}x{site.cluster.num_threads}-"
