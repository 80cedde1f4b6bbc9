"""Pacing of requests: the rate limit, the vendor's pauses and the times of polls."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass

MAX_PAUSE_S = 300.0  # longer requested pauses are cut to this
LONGEST_WAIT_S = 3600.0  # a run whose vendor asks for more ends at once


class Pace:
    """Rate limit of `per_minute` requests, with the pauses that the vendor requests.

    No bursts: a quiet minute does not raise the rate of the next.
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
        """True during a pause: a create that fails now left before the pause began."""
        return time.monotonic() < self.paused_until

    def pause(self, seconds: float) -> float:
        """Pause creates for `seconds`, capped at 300 s; return the actual seconds."""
        seconds = min(max(seconds, 0.0), MAX_PAUSE_S)
        self.paused_until = max(self.paused_until, time.monotonic() + seconds)
        return seconds


@dataclass(frozen=True)
class Guess:
    """Time of a task's first poll, in seconds after its creation."""

    first_s: float
    earlier: float  # if that finds it done, its end is taken to be earlier by this share


class Polling:
    """Poll times of a task: first when one in four would be done, then in small steps.

    The times come from the ends of the last 16 tasks. If the first poll finds a task done, its end
    lies an unknown time before: a small share is assumed, which grows while this goes on. Each end
    is corrected from the guess of its own task, so sixteen tasks that end together change the guess
    no more than one does.
    Of 16 places with an answer's time of 200 ms, 1 % (jobs of 60 s, all alike) to 7 % (60 s, spread
    20 %) of the time is lost, for 1.6 to 3.7 looks a task; it was 3 % and 20 % with a first poll
    that every task moved by itself (simulated, docs/lab-notes.md).
    """

    FLOOR_S, CEILING_S, LONGEST_S = 0.05, 15.0, 120.0
    NUM_KNOWN, SHARE_DONE = 16, 0.25
    CAREFUL, BOLDER, BOLDEST = 0.001, 1.5, 0.1

    def __init__(self) -> None:
        self.guess: Guess | None = None  # for tasks that are created now
        self._ends: deque[float] = deque(maxlen=self.NUM_KNOWN)

    def finished(self, guess: Guess | None, num_looks: int, vain_s: float, seen_s: float) -> None:
        """Update the guess: a task with `guess` was done at the poll of `seen_s`.

        Seconds after its creation; the poll at `vain_s` was the last unfinished one (0: none).
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
        """Return the seconds until the next poll, by the polls so far and the task's age."""
        if guess is None:
            return min(max(elapsed_s / 8, self.FLOOR_S), self.CEILING_S)
        if num_looks == 0:
            return min(max(guess.first_s - elapsed_s, self.FLOOR_S), self.LONGEST_S)
        overdue = max(
            0.0, elapsed_s - 2 * guess.first_s
        )  # a task that hangs is polled ever less often
        step = guess.first_s / (40 if num_looks == 1 else 20) + overdue / 8
        return min(max(step, self.FLOOR_S), self.CEILING_S)


def requested_wait(seconds: float) -> str:
    """Return the pause that a vendor asks for, and the time of this machine at its end."""
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
    return f"the provider asks to wait {seconds:.0f} s ({seconds / 3600:.3g} h), until {until}"


def backoff_s(failures: int) -> float:
    """Return 1, 2, 4 ... s after the first, second, third consecutive failure; at most 60 s."""
    return float(min(2 ** max(0, failures - 1), 60))
