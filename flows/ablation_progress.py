"""Progress lines of a group of ablation cells, whose own output goes to their logs."""

import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

PERIOD_S = 20.0  # as a campaign in a pipe
# Seven main arms of 8 rounds took 7 min 55 s on two quiet cores (docs/lab-notes.md).
CORE_S_PER_ROUND = 17.0


class Named(Protocol):
    """A cell: its name, and that of its campaign."""

    @property
    def name(self) -> str: ...
    @property
    def campaign(self) -> str: ...


class GroupProgress:
    """Lines about cells: the time expected, each start and end, and where the running ones are."""

    def __init__(
        self,
        num_rounds: dict[str, int],
        runs: Path,
        jobs: int,
        goes_on: Collection[str] = (),
        write: Callable[[str], object] | None = None,
    ) -> None:
        """`num_rounds`: of each cell that is not finished, by name; `goes_on`: the cells whose
        campaign has begun with these params, so that its rounds count.
        """
        self._goes_on = goes_on
        self._num_rounds, self._runs, self._jobs = num_rounds, runs, jobs
        self._write = write or _to_stderr
        self._began = self._last = time.monotonic()
        self._ended: set[str] = set()
        self._num_before = 0  # rounds that stood here at the start

    def begin(self, cells: Sequence[Named]) -> None:
        """Say how many campaigns are left and how long they take."""
        if not cells:
            return
        self._num_before = sum(self._rounds(cell) for cell in cells if cell.name in self._goes_on)
        left = sum(self._num_rounds.values()) - self._num_before
        expected = duration(left * CORE_S_PER_ROUND / min(self._jobs, len(cells)))
        rounds = f"{left} rounds" + (f", {self._num_before} are here" if self._num_before else "")
        self._line(
            f"{len(cells)} {'campaign' if len(cells) == 1 else 'campaigns'}, "
            f"{min(self._jobs, len(cells))} at a time, {rounds}: about {expected} on cores that do "
            "nothing else; Ctrl-C keeps everything finished"
        )

    def started(self, cell: Named) -> None:
        """Say which campaign starts, and where its lines are."""
        log = self._runs / ".ablations" / f"{cell.name}.log"
        self._line(f"{cell.name} starts: {log}")

    def ended(self, cell: Named, code: int) -> None:
        """Say how a campaign ended."""
        self._ended.add(cell.name)
        how = "finished" if code == 0 else f"ended with exit code {code}"
        self._line(f"{cell.name} {how}, {len(self._ended)} of {len(self._num_rounds)}")

    def tick(self, running: Collection[Named], waiting: Collection[Named]) -> None:
        """Say every so often in which round each running campaign is."""
        if time.monotonic() - self._last < PERIOD_S or not running:
            return
        now = [
            f"{cell.name} {self._rounds(cell)}/{self._num_rounds.get(cell.name, '?')} rounds"
            for cell in running
        ]
        queue = f"; {len(waiting)} wait" if waiting else ""
        self._line(", ".join(now) + queue + self._left([*running, *waiting]))

    def _left(self, cells: Collection[Named]) -> str:
        """Return the time left at the pace so far; empty before a round is done."""
        known = [cell for cell in cells if cell.name in self._num_rounds]
        left = sum(self._num_rounds[cell.name] - self._rounds(cell) for cell in known)
        done = sum(self._num_rounds.values()) - left - self._num_before
        if done <= 0 or left <= 0:  # after the last round comes the final evaluation
            return ""
        return f"; about {duration((time.monotonic() - self._began) * left / done)} left"

    def _rounds(self, cell: Named) -> int:
        rounds = self._runs / cell.campaign / "rounds"
        found = len(list(rounds.glob("[0-9]*.json")))
        return min(found, self._num_rounds.get(cell.name, found))

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        self._write(f"{duration(self._last - self._began):>9}  {text}")


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def duration(seconds: float) -> str:
    """ "2 min 40 s"; hours without seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
