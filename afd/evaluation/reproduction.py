"""Whether a grid that was played anew says what the committed one says, number by number.

On one kind of CPU both are equal to the last bit. Between kinds the last bits of sums differ, and
eight rounds of sampling, scoring and selecting make of that about what another noise seed makes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from afd.evaluation.comparison import differing
from afd.evaluation.results import DONE, CellResult

# What another kind of CPU may make of a number; of the look's distance, which spans three orders of
# size, a share of the committed one on top. From 58 cells, Intel against AMD (docs/lab-notes.md):
# all but one lie within, and that one, a discriminator at too high a learning rate, never settles.
TOLERANCES = {
    "trajectory_error_px": 0.25,
    "gravity": 0.015,
    "object_permanence": 0.03,
    "interpenetration": 0.35,
    "motion": 0.07,
    "sharpness": 0.01,
    "frechet_distance": 0.1,
}
LOOK, SHARE_OF_LOOK = "frechet_distance", 0.1


@dataclass(frozen=True)
class Deviation:
    """One number of one cell, as committed and here; None where the metric is not defined."""

    cell: str
    side: str
    metric: str
    committed: float | None
    here: float | None

    @property
    def size(self) -> float:
        """Infinite where only one of the two is a number."""
        known = [x for x in (self.committed, self.here) if x is not None and math.isfinite(x)]
        if len(known) == 2:
            return abs(known[1] - known[0])
        return math.inf if known else 0.0

    @property
    def is_within(self) -> bool:
        """Whether another kind of CPU explains it."""
        allowed = TOLERANCES[self.metric]
        if self.metric == LOOK and self.committed is not None:
            allowed += SHARE_OF_LOOK * abs(self.committed)
        return self.size <= allowed


@dataclass(frozen=True)
class Reproduction:
    """`deviations`: of the cells that both have; `unlike`: what cannot be compared, in words."""

    deviations: tuple[Deviation, ...]
    unlike: tuple[str, ...]

    @property
    def outside(self) -> list[Deviation]:
        """Those that no other CPU explains."""
        return [found for found in self.deviations if not found.is_within]

    @property
    def cells(self) -> list[str]:
        return list(dict.fromkeys(found.cell for found in self.deviations))

    @property
    def equal_cells(self) -> list[str]:
        """Equal to the last bit in every number."""
        moved = {found.cell for found in self.deviations if found.size > 0}
        return [cell for cell in self.cells if cell not in moved]

    def of(self, metric: str) -> list[Deviation]:
        """Of one metric, the largest first."""
        found = (one for one in self.deviations if one.metric == metric)
        return sorted(found, key=lambda one: -one.size)


def reproduction(committed: Sequence[CellResult], here: Iterable[CellResult]) -> Reproduction:
    """Of every committed cell; one that failed, is absent or was judged otherwise is unlike."""
    played = {cell.name: cell for cell in here}
    deviations: list[Deviation] = []
    unlike: list[str] = []
    for cell in committed:
        again = played.get(cell.name)
        if again is None:
            unlike.append(f"{cell.name}: not played here")
        elif again.status != cell.status:
            unlike.append(f"{cell.name}: {cell.status} as committed, {again.status} here")
        elif fields := differing(cell.card, again.card):
            unlike.append(f"{cell.name}: judged by another card ({', '.join(fields)})")
        elif cell.status == DONE:
            deviations += _deviations(cell, again)
    return Reproduction(tuple(deviations), tuple(unlike))


def _deviations(committed: CellResult, here: CellResult) -> list[Deviation]:
    sides = (("base", committed.base, here.base), ("student", committed.student, here.student))
    return [
        Deviation(here.name, side, metric, before.get(metric), after.get(metric))
        for side, before, after in sides
        for metric in TOLERANCES
    ]
