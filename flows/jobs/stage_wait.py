"""State of one wait for the jobs of a stage: what is judged, what is missing, what comes next."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from afd.runtime.request import StageRequest
from flows.jobs.pace import Pace
from flows.jobs.records import Job, StageRecord

WHOLE = -2  # among parts: the stage is not split


@dataclass
class Wait:
    """One stage that is waited for."""

    request: StageRequest
    entry: StageRecord
    num_parts: int  # 0: not split
    judged: set[str] = field(default_factory=set[str])
    idle: "Counter[int]" = field(default_factory=Counter[int])  # by unit, since the last progress
    restarts: "Counter[str]" = field(default_factory=Counter[str])  # by task
    reached: frozenset[str] = frozenset()
    missing: list[int] = field(default_factory=list[int])
    counted_at: float = float("-inf")
    written_at: float = float("-inf")
    not_before: float = float("-inf")  # another process makes it: look again later
    num_busy: int = 0
    first_seen_ended: dict[str, float] = field(default_factory=dict[str, float])
    pace: Pace = field(default_factory=Pace)

    @property
    def tasks(self) -> dict[str, int]:
        """Task -> the unit that it computes, of those not judged yet."""
        return {
            task: unit
            for job in self.entry.jobs
            for task, unit in zip(job.tasks, job.parts or (WHOLE,), strict=False)
            if task not in self.judged
        }

    @property
    def watched(self) -> list[Job]:
        """Jobs with a task that is not judged yet."""
        return [job for job in self.entry.jobs if not self.judged.issuperset(job.tasks)]

    def ended_since(self, tasks: Sequence[str]) -> float:
        """Return when the last of them was first seen as ended, -inf for none."""
        at = time.monotonic()
        since = [self.first_seen_ended.setdefault(task, at) for task in tasks]
        return max(since, default=float("-inf"))
