"""Schedulers of jobs, this machine's processes and SLURM: one query for any number of jobs.

`states` answers by task ("123_4", a pid); a task that it does not name is not known any more. A
process of another host is neither asked about nor ended from here: its number means another one.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Protocol

import psutil

from afd.errors import UserError
from flows.jobs.records import Job, JobRecords, Seen

GRACE_S = 3.0  # submitit's controller sends SIGINT, waits 1 s and kills
PATIENCE_S = 60  # a busy controller answers late
SACCT_PATIENCE_S = 20  # the answer of squeue waits for it
SACCT_AGAIN_S = 600.0
# A job in any other state has ended. ELSEWHERE is ours: a process of another host.
LIVE = frozenset(
    {
        *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "RESIZING", "SIGNALING"),
        *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "STOPPED"),
        *("STAGE_OUT", "ELSEWHERE"),
    }
)
FIELDS = ("JobArrayID", "State", "Reason", "exit_code", "RestartCnt", "NodeList")
FORMAT = ",".join(f"{field}:|" for field in FIELDS)


class SchedulerError(UserError):
    """The scheduler did not answer; nothing is known about any job."""


class Scheduler(Protocol):
    """Interface of a scheduler."""

    def states(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        """Return the state of every task of `jobs`, by one query. Raises SchedulerError."""
        ...

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End them, and nothing else."""
        ...


def is_live(seen: Seen | None) -> bool:
    """Return whether a task may still compute, or be started again by the scheduler."""
    return seen is not None and seen.state in LIVE


def runs_here(jobs: Sequence[Job]) -> bool:
    """Return whether a process of this host computes one of them, without a query."""
    return any(_is_here(job) and job.process.is_alive() for job in jobs if job.process is not None)


def states(jobs: Sequence[Job]) -> dict[str, Seen]:
    """Return the states of tasks of any kind, by at most one query to each scheduler."""
    found: dict[str, Seen] = {}
    for scheduler, chosen in _by_kind([job for job in jobs if job.job_id]):
        found |= scheduler.states(chosen)
    return found


def cancel(jobs: Sequence[Job]) -> None:
    """End jobs of any kind. Raises SchedulerError."""
    for scheduler, chosen in _by_kind(jobs):
        scheduler.cancel(chosen)


def give_up(ledger: JobRecords, jobs: Sequence[Job]) -> None:
    """Cancel them; what cannot be reached from here finds the mark on the shared disk."""
    with contextlib.suppress(OSError):  # a full disk takes no mark; SLURM cancels in any case
        ledger.give_up(jobs)
    try:
        cancel(jobs)
    except SchedulerError as error:
        ids = " ".join(job.job_id for job in jobs if job.job_id) or "<its number in squeue --me>"
        sys.stderr.write(
            f"warning: SLURM was not told to cancel: {error}\n  jobs that run see it on the "
            f"shared disk and stop; `scancel {ids}` later also takes those that wait\n"
        )


def _by_kind(jobs: Sequence[Job]) -> list[tuple[Scheduler, list[Job]]]:
    kinds: list[tuple[Scheduler, list[Job]]] = [
        (Processes(), [job for job in jobs if job.kind == "local"]),
        (SLURM, [job for job in jobs if job.kind == "slurm"]),
    ]
    return [(scheduler, chosen) for scheduler, chosen in kinds if chosen]


class Processes:
    """Jobs of this machine: a submitit controller and what it started."""

    def states(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        found: dict[str, Seen] = {}
        for job in jobs:
            if job.process is not None and not _is_here(job):
                reason = f"if it still runs: a process of {job.process.host}, seen only there"
                found[job.job_id] = Seen(state="ELSEWHERE", reason=reason)
            elif job.process is not None and job.process.is_alive():
                found[job.job_id] = Seen(state="RUNNING")
        return found

    def cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            _end_family(job)


class Slurm:
    """squeue, and sacct for what has left it. Both answer about all jobs at once."""

    def __init__(self) -> None:
        self._accounted_at = float("-inf")  # sacct gets no query before then
        self._has_warned = False

    def states(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        job_ids = ",".join(sorted({job.job_id for job in jobs}))
        command = ["squeue", "--noheader", "--array", "--states=all", "-O", FORMAT]
        answer = _run([*command, f"--jobs={job_ids}"])
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise SchedulerError(answer.stderr.strip() or "squeue failed")
        found = dict(_parsed(line) for line in answer.stdout.splitlines() if "|" in line)
        gone = [job for job in jobs if any(task not in found for task in job.tasks)]
        if gone and time.monotonic() >= self._accounted_at:
            found = self._accounted(gone) | found
        wanted = {task for job in jobs for task in job.tasks}
        return {task: seen for task, seen in found.items() if task in wanted}

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Also those that sbatch took before anybody was told their number."""
        _scancel({job.job_id for job in jobs if job.job_id})
        unnamed = [job.token for job in jobs if job.token and not job.job_id]
        _scancel({job_id for token in unnamed if (job_id := self.find(token))})

    def find(self, token: str) -> str | None:
        """Return the id of the job with this comment: sbatch may have died before its answer.

        Raises SchedulerError.
        """
        command = ["squeue", "--noheader", "--me", "--states=all", "-O", "ArrayJobID:|,Comment:|"]
        answer = _run(command)
        if answer.returncode:
            raise SchedulerError(answer.stderr.strip() or "squeue failed")
        for line in answer.stdout.splitlines():
            job_id, comment, *_ = line.split("|")
            if comment.strip() == token:
                return job_id.strip()
        return None

    def _accounted(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        """Return the ends from slurmdbd; nothing, and one warning, where there is none."""
        job_ids = ",".join(sorted({job.job_id for job in jobs}))
        fields = "JobID,State,ExitCode,NodeList"
        try:
            answer = _run(
                ["sacct", "-n", "-P", "-X", "-o", fields, "-j", job_ids], SACCT_PATIENCE_S
            )
        except SchedulerError as error:  # the answer of squeue stays valid
            return self._not_accounted(str(error))
        if answer.returncode:
            return self._not_accounted(answer.stderr.strip() or "no reason given")
        found: dict[str, Seen] = {}
        for line in answer.stdout.splitlines():
            task, state, code, node = (*line.split("|"), "", "", "")[:4]
            word, _, rest = state.partition(" ")  # "CANCELLED by 1000"
            if word and word not in LIVE:  # what lives squeue knows: that record was never closed
                found[task] = Seen(state=word, reason=rest, exit_code=_exit_code(code), node=node)
        return found

    def _not_accounted(self, trouble: str) -> dict[str, Seen]:
        self._accounted_at = time.monotonic() + SACCT_AGAIN_S
        if not self._has_warned:
            self._has_warned = True
            sys.stderr.write(
                f"warning: sacct does not answer ({trouble.splitlines()[-1]}); the end of a "
                "job that squeue has forgotten is read from the exit code it left on disk\n"
            )
        return {}


SLURM = Slurm()


def max_array_size() -> int:
    """One more than the largest index of an array on this cluster; indices begin at 0.

    Raises SchedulerError.
    """
    answer = _run(["scontrol", "show", "config"])
    for line in answer.stdout.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return int(value)
    raise SchedulerError(answer.stderr.strip() or "scontrol does not tell MaxArraySize")


def _scancel(job_ids: set[str]) -> None:
    if not job_ids:
        return
    answer = _run(["scancel", "--quiet", *sorted(job_ids)])
    if answer.returncode and "Invalid job id" not in answer.stderr:
        raise SchedulerError(answer.stderr.strip() or "scancel failed")


def _run(
    command: Sequence[str], patience_s: float = PATIENCE_S
) -> "subprocess.CompletedProcess[str]":
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=patience_s, check=False, env=clean
        )
    except FileNotFoundError:
        raise SchedulerError(
            f"{command[0]}: not found; log in to a node of the cluster, or add SLURM's bin to PATH"
        ) from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{command[0]} did not answer within {patience_s:g} s") from None


def _parsed(line: str) -> tuple[str, Seen]:
    task, state, reason, code, restarts, node = (cell.strip() for cell in line.split("|")[:6])
    seen = Seen(
        state=state,
        reason="" if reason == "None" else reason,
        exit_code=_exit_code(code),
        num_restarts=int(restarts or 0),
        node=node,
    )
    return task, seen


def _exit_code(text: str) -> int | None:
    """squeue gives the raw wait status, sacct "code:signal"."""
    code, colon, signal = text.partition(":")
    if not code.isdigit():
        return None
    if colon:
        return -int(signal) if int(signal) else int(code)
    status = int(code)
    return -(status & 0x7F) if status & 0x7F else status >> 8


def _end_family(job: Job) -> None:
    """Terminate a controller and its children, then kill them; warn for another host."""
    if job.process is not None and not _is_here(job):
        pid, host = job.process.pid, job.process.host
        sys.stderr.write(
            f"warning: process {pid} was started on {host} and cannot be ended from "
            f"{socket.gethostname()}; if it still runs it sees on the shared disk that it was "
            f"given up, and stops; else `kill {pid}` on {host}\n"
        )
        return
    if job.process is None or not job.process.is_alive():
        return
    try:
        controller = psutil.Process(job.process.pid)
        family = [controller, *controller.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in reversed(family):
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(family, timeout=GRACE_S)
    for process in alive:
        _quietly(process.kill)


def _is_here(job: Job) -> bool:
    return job.process is not None and job.process.host == socket.gethostname()


def _quietly(act: object) -> None:
    try:
        act()  # type: ignore[operator]
    except psutil.NoSuchProcess:
        return
