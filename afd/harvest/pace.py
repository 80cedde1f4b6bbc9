"""When the next request leaves: no faster than allowed, no poll that cannot say anything new."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass

MAX_PAUSE_S = 300.0  # a vendor that asks for more is asked again after this much


class Pace:
    """Requests one after another, `per_minute` of them, and none while the vendor asks for a pause.

    No bursts: what was not sent in a quiet minute is not made up for in the next.
    """

    def __init__(self, per_minute: float) -> None:
        self._interval = 60.0 / per_minute
        self._next = 0.0
        self.paused_until = 0.0  # of creations; time.monotonic

    async def turn(self, *, is_creation: bool = False) -> None:
        """Wait until this request may leave."""
        while True:
            now = time.monotonic()
            start = max(self._next, self.paused_until if is_creation else 0.0)
            if start <= now:
                self._next = now + self._interval
                return
            await asyncio.sleep(start - now)

    @property
    def is_paused(self) -> bool:
        """Whether creations wait already: what fails now left before the pause began."""
        return time.monotonic() < self.paused_until

    def pause(self, seconds: float) -> float:
        """Create nothing for so long, capped; gives the seconds that it will be."""
        seconds = min(max(seconds, 0.0), MAX_PAUSE_S)
        self.paused_until = max(self.paused_until, time.monotonic() + seconds)
        return seconds


@dataclass(frozen=True)
class Guess:
    """When a task is first looked at, in seconds after its creation."""

    first_s: float
    earlier: float  # if that finds it done, its end is taken to be earlier by this share


class Polling:
    """When to look at a task: first when one in four would be done, then in small steps.

    Learned from the last tasks' ends. What the first look finds done has ended before, nobody knows
    when: a little before, and ever more while that goes on. Every lesson starts from the guess that
    its task was watched with, so that sixteen tasks that end together teach no more than one would.
    Of 16 places with an answer's time of 200 ms, 1 % (jobs of 60 s, all alike) to 7 % (60 s, spread
    20 %) of the time is lost, for 1.6 to 3.7 looks a task; it was 3 % and 20 % with a first look
    that every task moved by itself (simulated, docs/lab-notes.md).
    """

    FLOOR_S, CEILING_S, LONGEST_S = 0.05, 15.0, 120.0
    NUM_KNOWN, SHARE_DONE = 16, 0.25
    CAREFUL, BOLDER, BOLDEST = 0.001, 1.5, 0.1

    def __init__(self) -> None:
        self.guess: Guess | None = None  # for tasks that are created now
        self._ends: deque[float] = deque(maxlen=self.NUM_KNOWN)

    def finished(self, guess: Guess | None, num_looks: int, vain_s: float, seen_s: float) -> None:
        """Of a task watched with `guess`: the look sent at `seen_s` found it done.

        Seconds after its creation; the look at `vain_s` was the last that did not (0: none was).
        """
        if guess is not None and num_looks == 1:
            self._ends.append(guess.first_s * (1 - guess.earlier))
            earlier = min(guess.earlier * self.BOLDER, self.BOLDEST)
        else:
            self._ends.append(vain_s + (seen_s - vain_s) / 4)
            earlier = self.CAREFUL
        first_s = sorted(self._ends)[int(self.SHARE_DONE * len(self._ends))]
        self.guess = Guess(max(first_s, self.FLOOR_S), earlier)

    def wait_s(self, guess: Guess | None, num_looks: int, elapsed_s: float) -> float:
        """How long to leave a task alone that was looked at so often, so long after creation."""
        if guess is None:
            return min(max(elapsed_s / 8, self.FLOOR_S), self.CEILING_S)
        if num_looks == 0:
            return min(max(guess.first_s - elapsed_s, self.FLOOR_S), self.LONGEST_S)
        overdue = max(0.0, elapsed_s - 2 * guess.first_s)  # what hangs is asked ever less often
        step = guess.first_s / (40 if num_looks == 1 else 20) + overdue / 8
        return min(max(step, self.FLOOR_S), self.CEILING_S)


def backoff_s(failures: int) -> float:
    """1, 2, 4 ... seconds after the first, second, third failure in a row; at most a minute."""
    return float(min(2 ** max(0, failures - 1), 60))
