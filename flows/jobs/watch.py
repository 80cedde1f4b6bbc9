"""The one watcher of a process: however many jobs are waited for, one question an interval.

Whoever waits asks the watcher as often as it likes; it asks the scheduler when what it knows is
older than the interval, and once more soon after jobs were submitted. While the scheduler does not
answer, the jobs go on and so does the wait.
"""

import sys
import threading
import time
from collections.abc import Mapping, Sequence

from flows.jobs import scheduler
from flows.jobs.ledger import Job, Seen
from flows.jobs.scheduler import SchedulerError

TELL_EVERY_S = 300.0
SOON_S = 2.0  # after a job was submitted SLURM has found out whether and why it waits


class Watcher:
    """Thread-safe."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._since: dict[str, float] = {}
        self._seen: Mapping[str, Seen] = {}
        self._asked_at = float("-inf")
        self._answered_at = float("-inf")
        self._told_at = float("-inf")
        self._soon_at = float("inf")  # one look between two intervals, for jobs that are new

    def look(self, jobs: Sequence[Job]) -> Mapping[str, Seen] | None:
        """What is known of the tasks of `jobs`, at most an interval old; a task that is absent is
        not known to the scheduler. None while nothing is known of some of them yet."""
        with self._lock:
            now = time.monotonic()
            for job in jobs:
                if job.job_id not in self._jobs:
                    self._jobs[job.job_id], self._since[job.job_id] = job, now
                    self._soon_at = min(self._soon_at, now + SOON_S)
            if now - self._asked_at >= self._period_s or now >= self._soon_at:
                self._ask()
            if any(self._since[job.job_id] > self._answered_at for job in jobs):
                return None
            tasks = {task for job in jobs for task in job.tasks}
            return {task: seen for task, seen in self._seen.items() if task in tasks}

    def drop(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for them any more."""
        with self._lock:
            for job in jobs:
                self._jobs.pop(job.job_id, None)
                self._since.pop(job.job_id, None)

    def _ask(self) -> None:
        asked_at = time.monotonic()
        if asked_at >= self._soon_at:
            self._soon_at = float("inf")
        try:
            self._seen = scheduler.states(list(self._jobs.values()))
            self._answered_at = asked_at
        except SchedulerError as error:
            if asked_at - self._told_at > TELL_EVERY_S:
                self._told_at = asked_at
                sys.stderr.write(f"warning: {error}; jobs go on, and so does this wait\n")
        self._asked_at = time.monotonic()


_watchers: dict[float, Watcher] = {}
_making = threading.Lock()


def watcher(period_s: float) -> Watcher:
    """The process's own: campaigns with the same interval share it."""
    with _making:
        return _watchers.setdefault(period_s, Watcher(period_s))
