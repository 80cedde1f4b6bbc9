"""A stage as SLURM jobs: one job, or an array of parts of which only the missing ones are computed.

The head may die at any moment: the ledger knows every submission before sbatch is asked, and the
next head waits for what still runs. Whether the stage is made only the store says.
"""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial

from afd.failpoints import failpoint
from afd.runtime.mailbox import request_id
from afd.runtime.outcome import Outcome
from afd.runtime.parts import max_parts, missing
from afd.runtime.request import StageRequest
from afd.runtime.workspace import reached
from afd.store import write_atomic
from flows.jobs import scheduler
from flows.jobs.diagnosis import (
    Diagnosis,
    EndedTask,
    diagnose,
    left_exit_code,
    rejected,
    reports_done,
    unreachable,
)
from flows.jobs.inside import GATHER, StageJob, run_stage
from flows.jobs.poller import poller
from flows.jobs.records import Job, JobRecords, Seen, StageRecord, now
from flows.jobs.scheduler import SchedulerError, is_live
from flows.jobs.site import LATE_S, GivenUpError, Site, cancelling, look_anew
from flows.jobs.slurm_queue import max_array_size
from flows.jobs.stage_wait import WHOLE, Wait
from flows.jobs.submit import (
    TAKES_S,
    RejectedError,
    adopted,
    new_token,
    patiently,
    sections,
    submit_patiently,
    submit_slurm,
)

LOOK_S = 0.1  # at the store
MISSING_LOOK_S = 1.0  # at the parts
KEEP_S = 60.0  # the age of what `afd status` reads is that exact
APPEAR_S = 3.0  # a shared disk may show another host's files that late; NFS: LATE_S
BUSY_S, MAX_BUSY_S = 10.0, 300.0  # until what another process makes is asked for again, doubling
DEFAULT_ARRAY = 1001  # SLURM's own


class SlurmJobs:
    """Each stage in jobs of its own."""

    num_side_by_side = 8  # waits; the scheduler decides what runs

    def __init__(self, site: Site) -> None:
        self._site = site
        self._slurm, _ = sections(site.cluster, "worker")
        self._ledger = JobRecords(site.folder / "ledger")
        self._timeout_min = site.cluster.timeout_min
        self._poller = poller(self._slurm.poll_s)
        self._lock = threading.Lock()
        self._waits: dict[str, Wait] = {}
        self._closed = False

    def attempt(self, request: StageRequest) -> Outcome:
        """Wait for the stage's jobs, those of an earlier head too; submit what is missing.

        A task that ends early is replaced as long as there is progress, so that `lost` is no
        outcome here. Raises GivenUpError when this is closed, also while waiting.
        """
        name = request_id(request)
        self._check_open()
        try:
            wait = self._begin(name, request)
        except SchedulerError as error:
            return unreachable(request.stage, error)
        with self._lock:
            self._waits[name] = wait
        with cancelling(lambda: self._cancel(wait)):
            outcome = self._wait(wait)
        self._poller.drop(wait.entry.jobs)
        with self._lock:
            self._waits.pop(name, None)
        if outcome.status != "done":
            scheduler.give_up(self._ledger, wait.entry.jobs)
        self._ledger.end(name, outcome.status, outcome.message)
        return outcome

    def start(self) -> None: ...

    def end_round(self) -> None: ...

    def close(self) -> None:
        """Cancel the jobs that are waited for."""
        self._closed = True
        with self._lock:
            for wait in self._waits.values():
                self._cancel(wait)

    def _check_open(self) -> None:
        if self._closed:
            raise GivenUpError("the campaign ends: its jobs are cancelled")

    def _cancel(self, wait: Wait) -> None:
        scheduler.give_up(self._ledger, wait.entry.jobs)
        self._ledger.end(wait.entry.name, "cancelled", "given up; the next command goes on")

    # ------------------------------------------------------------------ waiting

    def _begin(self, name: str, request: StageRequest) -> Wait:
        """Return the wait for a stage, with the jobs on record that may still compute."""
        resources = sections(self._site.cluster, request.stage)[1]
        num_parts = min(resources.num_parts, max_parts(request))
        entry = self._ledger.read(name)
        attempts = entry.attempts if entry is not None else 0
        left = entry.jobs if entry is not None and not entry.ended else ()
        fitting = [job for job in left if job.kind == "slurm" and job.num_parts in (0, num_parts)]
        jobs: list[Job] = []
        for job in fitting:
            if job.job_id:
                jobs.append(job)
            elif found := patiently(partial(adopted, job), self._check_open, TAKES_S):
                jobs.append(found)  # killed before sbatch answered
                attempts += 1
        # Split otherwise, or of a local executor: it would compute the same beside what follows.
        others = [job for job in left if job not in fitting]
        if others:
            scheduler.give_up(self._ledger, others)
        entry = StageRecord(
            name=name,
            stage=request.stage,
            fingerprint=request.output.fingerprint,
            folder=str(self._site.submitit),
            jobs=tuple(jobs),
            attempts=attempts,
            submitted_at=entry.submitted_at if entry is not None else "",
        )
        return Wait(request, entry, num_parts if num_parts > 1 else 0)

    def _wait(self, wait: Wait) -> Outcome:
        started = time.monotonic()
        store, ref = self._site.store, wait.request.output
        while not store.have(ref):
            self._check_open()
            jobs = wait.watched
            seen = self._poller.look(jobs)
            if seen is not None:
                outcome = self.look(wait, seen, time.monotonic() - started)
                if outcome is not None:
                    return outcome
            time.sleep(LOOK_S)
        wall_s = time.monotonic() - started
        log = wait.entry.log if wait.entry.jobs else None
        return Outcome(status="done", message="", exit_code=0, wall_s=wall_s, log=log)

    def _with_left(self, wait: Wait, seen: Mapping[str, Seen]) -> Mapping[str, Seen]:
        """Return `seen` without tasks that squeue does not list and that left an exit code."""
        ended = {
            task
            for task, one in seen.items()
            if one.state == "UNSEEN" and left_exit_code(wait.entry.log_of(task)) is not None
        }
        return {task: one for task, one in seen.items() if task not in ended} if ended else seen

    def look(self, wait: Wait, seen: Mapping[str, Seen], wall_s: float) -> Outcome | None:
        """Handle ended tasks: submit them again, or return the outcome that ends the stage."""
        seen = self._with_left(wait, seen)
        self._keep(wait, seen)
        units = wait.tasks
        live = {task for task in units if is_live(seen.get(task))}
        for task in live:
            if (outcome := self._check_restarts(wait, task, seen[task], wall_s)) is not None:
                return outcome
        computing = {units[task] for task in live}
        lacking = self._lacking(wait, computing)
        needed = set(lacking)
        ended = [task for task in units if task not in live]
        wait.judged.update(task for task in ended if units[task] not in needed)
        ended = [task for task in ended if task not in wait.judged]
        # One job for the whole stage, of a head that did not split it, computes every part.
        todo = [] if WHOLE in computing else [unit for unit in lacking if unit not in computing]
        at = time.monotonic()
        if not todo or at < wait.not_before:
            return None
        if at - wait.ended_since(ended) < self._appears_in(wait, ended, seen):
            return None
        outcome = self._handle_ended(wait, ended, seen, wall_s)
        return outcome or self._submit_in_pace(wait, todo)

    def _handle_ended(
        self, wait: Wait, ended: Sequence[str], seen: Mapping[str, Seen], wall_s: float
    ) -> Outcome | None:
        """Return the outcome that ends the stage; None where ended tasks are computed again."""
        units = wait.tasks
        for task in ended:
            unit = units[task]
            wait.judged.add(task)
            verdict = diagnose(self._ended(wait, task, seen.get(task)), wall_s)
            is_busy = verdict.outcome.status == "busy" and wall_s < 60 * self._timeout_min
            if is_busy:
                wait.idle.clear()  # who holds it lives: a node lost to SLURM may compute on
                if wait.num_busy == 0:
                    sys.stderr.write(f"{verdict.outcome.message}\n  it is asked for again\n")
                pause_s = min(BUSY_S * 2**wait.num_busy, MAX_BUSY_S)
                wait.not_before, wait.num_busy = time.monotonic() + pause_s, wait.num_busy + 1
            elif not verdict.again or verdict.outcome.status == "busy":
                return verdict.outcome
            elif self._is_idle(wait, unit):
                return self._given_up(wait, unit, verdict)
        return None

    def _submit_in_pace(self, wait: Wait, todo: Sequence[int]) -> Outcome | None:
        at = time.monotonic()
        if at < wait.not_before:
            return None
        if (left_s := wait.pace.left_s(todo)) > 0:
            wait.not_before = at + left_s
            sys.stderr.write(f"{wait.request.stage}: {wait.pace.words}; again in {left_s:.0f} s\n")
            return None
        return self._submit(wait, todo)

    def _appears_in(self, wait: Wait, ended: Sequence[str], seen: Mapping[str, Seen]) -> float:
        """Return the seconds in which files of these tasks may appear: LATE_S after exit code 0."""
        if not any(reports_done(self._ended(wait, task, seen.get(task))) for task in ended):
            return APPEAR_S
        look_anew(self._site.store.path(wait.request.output).parent)
        look_anew(self._site.store.work_path(wait.request.output))
        return LATE_S

    def _lacking(self, wait: Wait, computing: set[int]) -> list[int]:
        """Return the units to compute: parts, or WHOLE, or GATHER when every part is there."""
        if not wait.num_parts:
            return [WHOLE]
        if (time.monotonic() - wait.counted_at) > MISSING_LOOK_S or not computing:
            wait.counted_at = time.monotonic()
            wait.missing = missing(self._site.store, wait.request, wait.num_parts)
        if not wait.missing and not computing:
            return [GATHER]
        return wait.missing

    def _is_idle(self, wait: Wait, unit: int) -> bool:
        """Return whether too many attempts at this unit in a row have left nothing new."""
        known = reached(self._site.store, wait.request)
        if known != wait.reached:
            wait.reached = known
            wait.idle.clear()
        wait.idle[unit] += 1
        return wait.idle[unit] >= self._slurm.max_idle_attempts

    def _check_restarts(self, wait: Wait, task: str, seen: Seen, wall_s: float) -> Outcome | None:
        """Return the outcome of a job that SLURM restarts too often without progress."""
        if seen.num_restarts <= wait.restarts[task]:
            return None
        wait.restarts[task] = seen.num_restarts
        if not self._is_idle(wait, wait.tasks[task]):
            return None
        verdict = diagnose(self._ended(wait, task, seen), wall_s)
        return self._given_up(wait, wait.tasks[task], verdict)

    def _given_up(self, wait: Wait, unit: int, last: Diagnosis) -> Outcome:
        which = f", part {unit}" if unit >= 0 else ""
        message = (
            f"{wait.request.stage}{which}: given up after {wait.idle[unit]} attempt(s) in a row "
            f"without a newer checkpoint or part; the last one:\n{last.outcome.message}"
        )
        return last.outcome.model_copy(update={"status": "failed", "message": message})

    def _ended(self, wait: Wait, task: str, seen: Seen | None) -> EndedTask:
        stage = wait.request.stage
        _, resources = sections(self._site.cluster, stage)
        return EndedTask(task, stage, seen, partial(wait.entry.log_of, task), resources)

    def _keep(self, wait: Wait, seen: Mapping[str, Seen]) -> None:
        """Leave what is known for `afd status`, when it has changed; its age every KEEP_S."""
        found = [(job, job.seen | _known(job, seen)) for job in wait.entry.jobs]
        changed = any(job.seen != known for job, known in found)
        at = time.monotonic()
        is_due = self._poller.age_s() < KEEP_S and at - wait.written_at > KEEP_S
        if not found or not (changed or is_due):
            return
        wait.written_at, seen_at = at, now()
        jobs = tuple(job.model_copy(update={"seen": k, "seen_at": seen_at}) for job, k in found)
        wait.entry = self._ledger.write(wait.entry.model_copy(update={"jobs": jobs}))

    # ------------------------------------------------------------------ submitting

    def _submit(self, wait: Wait, units: Sequence[int]) -> Outcome | None:
        """Ask for `units`: one job, or arrays no longer than the cluster takes."""
        if not wait.num_parts:
            return self._submit_one(wait, ())
        try:
            size = _max_array()
        except SchedulerError:
            size = DEFAULT_ARRAY  # sbatch, asked next, says what is wrong
        for first in range(0, len(units), size):
            outcome = self._submit_one(wait, tuple(units[first : first + size]))
            if outcome is not None:
                return outcome
        return None

    def _submit_one(self, wait: Wait, parts: tuple[int, ...]) -> Outcome | None:
        name, stage = wait.entry.name, wait.request.stage
        cluster = self._site.cluster
        file = self._ledger.request_file(name)
        write_atomic(file, wait.request.model_dump_json().encode())
        failpoint("flow.request_written")
        token = new_token()
        stage_job = StageJob(
            stage=stage,
            request=str(file.resolve()),
            store=str(self._site.store.root.resolve()),
            num_threads=cluster.num_threads,
            parts=parts,
            num_parts=wait.num_parts,
            num_ranks=sections(cluster, stage)[1].num_ranks,
            hang_s=cluster.hang_s,
            cancelled=str(self._ledger.cancelled_file(token).resolve()),
        )
        planned = Job(job_id="", kind="slurm", token=token, parts=parts, num_parts=wait.num_parts)
        wait.entry = self._ledger.write(wait.entry.with_job(planned, now()))
        wait.pace.note(parts or (WHOLE,))
        try:
            job = submit_patiently(
                lambda: submit_slurm(
                    *(self._site, f"afd-{name}", token, stage, run_stage, stage_job),
                    *(parts, wait.num_parts),
                ),
                planned,
                self._check_open,
            )
        except RejectedError as error:
            return rejected(stage, str(error))
        except SchedulerError as error:
            return unreachable(stage, error)
        failpoint("flow.job_submitted")
        wait.entry = self._ledger.write(wait.entry.with_job(job, now()))
        return None


def _known(job: Job, seen: Mapping[str, Seen]) -> dict[str, Seen]:
    """Return what the scheduler has said of its tasks; that it says nothing changes nothing."""
    found = {task: seen[task] for task in job.tasks if task in seen}
    return {task: one for task, one in found.items() if one.state != "UNSEEN"}


@cache  # of an answer: an error is asked about again
def _max_array() -> int:
    return max_array_size()  # indices run from 0 to one less
