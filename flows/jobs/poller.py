"""Poller of the scheduler: one query an interval for all jobs of a process.

A wait reads the poller at any rate. The poller queries the scheduler when its last answer is
older than the interval, and once more soon after jobs were submitted. While the scheduler does not
answer, the jobs go on and so does the wait.
"""

import sys
import threading
import time
from collections.abc import Mapping, Sequence

from flows.jobs import scheduler
from flows.jobs.records import Job, Seen
from flows.jobs.scheduler import SchedulerError

WARN_EVERY_S = 300.0
SOON_S = 2.0  # after a job was submitted SLURM has found out whether and why it waits


class Poller:
    """Thread-safe."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._since: dict[str, float] = {}
        self._seen: Mapping[str, Seen] = {}
        self._queried_at = float("-inf")
        self._answered_at = float("-inf")
        self._warned_at = float("-inf")
        self._soon_at = float("inf")  # one look between two intervals, for jobs that are new

    def look(self, jobs: Sequence[Job]) -> Mapping[str, Seen] | None:
        """Return the states of the tasks of `jobs`, at most an interval old.

        An absent task is not known to the scheduler. None before the first answer about a job.
        """
        with self._lock:
            now = time.monotonic()
            for job in jobs:
                if job.job_id not in self._jobs:
                    self._jobs[job.job_id], self._since[job.job_id] = job, now
                    self._soon_at = min(self._soon_at, now + SOON_S)
            if now - self._queried_at >= self._period_s or now >= self._soon_at:
                self._query()
            if any(self._since[job.job_id] > self._answered_at for job in jobs):
                return None
            tasks = {task for job in jobs for task in job.tasks}
            return {task: seen for task, seen in self._seen.items() if task in tasks}

    def drop(self, jobs: Sequence[Job]) -> None:
        """Forget jobs that no wait needs."""
        with self._lock:
            for job in jobs:
                self._jobs.pop(job.job_id, None)
                self._since.pop(job.job_id, None)

    def _query(self) -> None:
        queried_at = time.monotonic()
        if queried_at >= self._soon_at:
            self._soon_at = float("inf")
        try:
            self._seen = scheduler.states(list(self._jobs.values()))
            self._answered_at = queried_at
        except SchedulerError as error:
            if queried_at - self._warned_at > WARN_EVERY_S:
                self._warned_at = queried_at
                sys.stderr.write(f"warning: {error}; jobs go on, and so does this wait\n")
        self._queried_at = time.monotonic()


_pollers: dict[float, Poller] = {}
_making = threading.Lock()


def poller(period_s: float) -> Poller:
    """Return this process's poller; campaigns with the same interval share it."""
    with _making:
        return _pollers.setdefault(period_s, Poller(period_s))
