"""Poller of the scheduler: one query an interval for all jobs of a process.

A wait reads the poller at any rate, and never waits for an answer: a query runs in a thread of its
own, when the last answer is older than the interval, and once more soon after jobs were submitted.
While the scheduler does not answer, the jobs go on and so does the wait.
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
        self._is_asking = False
        self._queried_at = float("-inf")
        self._answered_at = float("-inf")
        self._warned_at = float("-inf")
        self._soon_at = float("inf")  # one look between two intervals, for jobs that are new

    def look(self, jobs: Sequence[Job]) -> Mapping[str, Seen] | None:
        """Return the states of the tasks of `jobs` in the last answer.

        An absent task is not known to the scheduler. None before the first answer about a job.
        """
        with self._lock:
            now = time.monotonic()
            for job in jobs:
                if job.job_id not in self._jobs:
                    self._jobs[job.job_id], self._since[job.job_id] = job, now
                    self._soon_at = min(self._soon_at, now + SOON_S)
            if now - self._queried_at >= self._period_s or now >= self._soon_at:
                self._begin(now)
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

    def age_s(self) -> float:
        """Return the seconds since the query of the last answer."""
        return time.monotonic() - self._answered_at

    def _begin(self, at: float) -> None:
        """Start a query, unless one still waits for its answer."""
        if self._is_asking or not self._jobs:
            return
        self._is_asking, self._queried_at = True, at
        if at >= self._soon_at:
            self._soon_at = float("inf")
        jobs = list(self._jobs.values())
        threading.Thread(target=self._query, args=(jobs, at), daemon=True).start()

    def _query(self, jobs: Sequence[Job], at: float) -> None:
        seen: Mapping[str, Seen] | None = None
        try:
            seen = scheduler.states(jobs)
        except SchedulerError as error:
            if at - self._warned_at > WARN_EVERY_S:
                self._warned_at = at
                sys.stderr.write(f"warning: {error}; jobs go on, and so does this wait\n")
        finally:
            with self._lock:
                if seen is not None:
                    self._seen, self._answered_at = seen, at
                self._is_asking, self._queried_at = False, time.monotonic()


_pollers: dict[float, Poller] = {}
_making = threading.Lock()


def poller(period_s: float) -> Poller:
    """Return this process's poller; campaigns with the same interval share it."""
    with _making:
        return _pollers.setdefault(period_s, Poller(period_s))
