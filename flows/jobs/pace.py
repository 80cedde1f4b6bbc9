"""A bound on submissions: so many of one unit within a window, whatever the cause of more."""

import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

MAX_SUBMISSIONS = 6
WINDOW_S = 600.0


def _times() -> "defaultdict[int, deque[float]]":
    return defaultdict(deque)


@dataclass
class Pace:
    """Times of the submissions of each unit of a stage."""

    _at: "defaultdict[int, deque[float]]" = field(default_factory=_times)

    @property
    def words(self) -> str:
        return f"{MAX_SUBMISSIONS} jobs within {WINDOW_S / 60:g} minutes is the bound"

    def note(self, units: Iterable[int]) -> None:
        """Count a submission of these units."""
        for unit in units:
            self._at[unit].append(time.monotonic())

    def left_s(self, units: Iterable[int]) -> float:
        """Return the seconds until each of these units may be submitted; 0 for now."""
        at = time.monotonic()
        return max((self._left_s(self._at[unit], at) for unit in units), default=0.0)

    def _left_s(self, times: "deque[float]", at: float) -> float:
        while times and at - times[0] > WINDOW_S:
            times.popleft()
        return times[0] + WINDOW_S - at if len(times) >= MAX_SUBMISSIONS else 0.0
