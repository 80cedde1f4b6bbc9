"""Batches of a splittable stage, saved as files by its parts and gathered once.

A batch depends on its number alone, so every process in every order leaves the same bytes on CPU. A
file holds consecutive batches; its name carries the sha256 of its bytes, so a damaged file is found
and only its batches are computed again.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from afd import signals
from afd.attempts import LostError
from afd.failpoints import failpoint
from afd.runtime.outcome import StoppedError
from afd.runtime.parts import saved, show_progress
from afd.runtime.stage_log import StepLog
from afd.runtime.tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

KEEP_PERIOD_S = 20.0  # of computing lost at a kill, at most, beside the current batch
Batch: TypeAlias = "Mapping[str, Tensor]"
Compute: TypeAlias = Callable[[int], Batch]
"""Function that computes batch n of a stage."""


class Batches:
    """Batches of one work folder."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.folder = work / "batches"
        self._period_s = float(os.environ.get("AFD_CHECKPOINT_PERIOD_S", KEEP_PERIOD_S))
        self._unsaved: dict[int, Batch] = {}
        self._clock = (time.monotonic(), time.process_time())
        self.wall_s = self.cpu_s = 0.0  # spent by other processes on the loaded batches

    def make(self, wanted: range, total: int, compute: Compute) -> None:
        """Compute and save the missing batches of `wanted`, a part of `total` batches.

        Raises StoppedError after a stop signal; every finished batch is saved by then.
        """
        signals.listen()
        there = saved(self.work)
        steps = StepLog("batch")
        for number in (number for number in wanted if number not in there):
            self._unsaved[number] = compute(number)
            steps.reached(number - wanted.start + 1, len(wanted))
            if self._passed(number - wanted.start + 1, len(wanted)):
                show_progress(self.work, len(saved(self.work)), total)
        self._save()
        show_progress(self.work, len(saved(self.work)), total)

    def all(self, total: int, compute: Compute, show: Callable[[int, int], None]) -> list[Batch]:
        """Return every batch in order; compute those without a file."""
        signals.listen()
        made = self.load()
        for number in (number for number in range(total) if number not in made):
            made[number] = self._unsaved[number] = compute(number)
            show(len(made), total)
            self._passed(len(made), total)
        return [made[number] for number in range(total)]

    def gathered(self, total: int, num_parts: int) -> list[Batch]:
        """Return every batch in order from files; raises LostError that names parts to repeat."""
        made = self.load()
        absent = [number for number in range(total) if number not in made]
        if absent:
            parts = sorted({((number + 1) * num_parts - 1) // total for number in absent})
            raise LostError(
                f"{self.folder}: {len(absent)} of {total} batches are missing or were damaged; the "
                f"others are kept. Compute part(s) {', '.join(map(str, parts))} of {num_parts} "
                "again, then gather"
            )
        return [made[number] for number in range(total)]

    def load(self) -> dict[int, Batch]:
        """Return the batches of all whole files; remove damaged files."""
        made: dict[int, Batch] = {}
        for file in sorted(set(saved(self.work).values())):
            found = read_tensors(file)
            if found is None:
                sys.stderr.write(f"warning: {file} is damaged: removed, to be computed again\n")
                file.unlink(missing_ok=True)
                continue
            note, tensors = found
            self.wall_s += note["wall_s"]
            self.cpu_s += note["cpu_s"]
            for key, tensor in tensors.items():
                number, _, name = key.partition("/")
                made.setdefault(int(number), {})[name] = tensor  # type: ignore[index]
        return made

    def _passed(self, done: int, total: int) -> bool:
        """Save between two batches when the period is over or after a stop signal."""
        signals.show_life()
        must_stop = signals.stop_requested() and done < total
        is_due = must_stop or time.monotonic() - self._clock[0] >= self._period_s
        if is_due:
            self._save()
        failpoint("batches.passed")
        if must_stop:
            raise StoppedError(f"told to stop: {done} of {total} batches are kept in {self.folder}")
        return is_due

    def _save(self) -> None:
        """Write a file for each run of consecutive batches; the first carries the time spent."""
        now = (time.monotonic(), time.process_time())
        spent = {"wall_s": now[0] - self._clock[0], "cpu_s": now[1] - self._clock[1]}
        self.folder.mkdir(exist_ok=True)
        for run in _runs(sorted(self._unsaved)):
            # copies: batches may share a tensor, which a file may not
            tensors = {f"{n}/{k}": t.clone() for n in run for k, t in self._unsaved[n].items()}
            write_tensors(self.folder, f"{run[0]:05d}-{run[-1]:05d}", tensors, json.dumps(spent))
            spent = {"wall_s": 0.0, "cpu_s": 0.0}
        self._unsaved, self._clock = {}, now


def _runs(numbers: Sequence[int]) -> Iterator[list[int]]:
    """[1, 2, 3, 7, 8] -> [1, 2, 3], [7, 8]."""
    for _, run in groupby(enumerate(numbers), lambda placed: placed[1] - placed[0]):
        yield [number for _, number in run]
