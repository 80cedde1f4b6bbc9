"""Schedulers of jobs, this machine's processes and SLURM: one query for any number of jobs.

`states` answers by task ("123_4", a pid); a task that it does not name is not known any more. A
process of another host is neither asked about nor ended from here: its number means another one.
"""

import contextlib
import socket
import sys
from collections.abc import Sequence
from typing import Protocol

import psutil

from flows.jobs.records import Job, JobRecords, Seen
from flows.jobs.slurm_answers import LIVE
from flows.jobs.slurm_queue import PATIENCE_S, SchedulerError, Slurm

GRACE_S = 3.0  # submitit's controller sends SIGINT, waits 1 s and kills
SLURM = Slurm()


class Scheduler(Protocol):
    """Interface of a scheduler."""

    def states(self, jobs: Sequence[Job], patience_s: float = ...) -> dict[str, Seen]:
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


def states(jobs: Sequence[Job], patience_s: float = PATIENCE_S) -> dict[str, Seen]:
    """Return the states of tasks of any kind, by at most one query to each scheduler."""
    found: dict[str, Seen] = {}
    for scheduler, chosen in _by_kind([job for job in jobs if job.job_id]):
        found |= scheduler.states(chosen, patience_s)
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
        tokens = " ".join(job.token for job in jobs if job.token)
        sys.stderr.write(
            f"warning: SLURM was not told to cancel: {error}\n  jobs that run see it on the "
            "shared disk and stop; one that waits stops when it starts\n  `squeue --me -O "
            f"ArrayJobID,State,Comment:40` lists those with the comment {tokens}\n"
        )


def _by_kind(jobs: Sequence[Job]) -> list[tuple[Scheduler, list[Job]]]:
    kinds: list[tuple[Scheduler, list[Job]]] = [
        (Processes(), [job for job in jobs if job.kind == "local"]),
        (SLURM, [job for job in jobs if job.kind == "slurm"]),
    ]
    return [(scheduler, chosen) for scheduler, chosen in kinds if chosen]


class Processes:
    """Jobs of this machine: a submitit controller and what it started."""

    def states(self, jobs: Sequence[Job], patience_s: float = PATIENCE_S) -> dict[str, Seen]:
        del patience_s  # the kernel answers at once
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
