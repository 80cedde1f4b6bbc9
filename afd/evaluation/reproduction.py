"""Comparison of a grid that ran again with the committed one, number by number.

On one kind of CPU both are equal to the last bit. Between kinds the last bits of sums differ; after
eight rounds of sampling, scoring and selecting the difference is about that of another noise seed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from afd.evaluation.comparison import differing
from afd.evaluation.metric_specs import TOLERANCES
from afd.evaluation.results import DONE, CellResult


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
        """Distance of the two numbers; infinite where only one of them is a number."""
        known = [x for x in (self.committed, self.here) if x is not None and math.isfinite(x)]
        if len(known) == 2:
            return abs(known[1] - known[0])
        return math.inf if known else 0.0

    @property
    def used(self) -> float:
        """Size as a share of the tolerance."""
        return self.size / TOLERANCES[self.metric].allowed(self.committed)

    @property
    def is_within(self) -> bool:
        """True where another kind of CPU explains the deviation."""
        return self.used <= 1.0


@dataclass(frozen=True)
class Reproduction:
    """Deviations of the cells that ran here; `unlike`: cells that cannot be compared, and why."""

    deviations: tuple[Deviation, ...]
    unlike: tuple[str, ...]
    not_run: tuple[str, ...] = ()  # names of committed cells that never ran here

    @property
    def is_reproduced(self) -> bool:
        """True where a cell ran here and another kind of CPU explains every deviation."""
        return bool(self.cells) and not self.outside and not self.unlike

    @property
    def outside(self) -> list[Deviation]:
        """Deviations that no other kind of CPU explains."""
        return [found for found in self.deviations if not found.is_within]

    @property
    def cells(self) -> list[str]:
        return list(dict.fromkeys(found.cell for found in self.deviations))

    @property
    def equal_cells(self) -> list[str]:
        """Cells that are equal to the last bit in every number."""
        moved = {found.cell for found in self.deviations if found.size > 0}
        return [cell for cell in self.cells if cell not in moved]

    def of(self, metric: str) -> list[Deviation]:
        """Return the deviations of one metric, the largest share of the tolerance first."""
        found = (one for one in self.deviations if one.metric == metric)
        return sorted(found, key=lambda one: -one.used)


def reproduction(committed: Sequence[CellResult], here: Iterable[CellResult]) -> Reproduction:
    """Return the deviations of every committed cell that ran here.

    A cell of another status or another card is unlike.
    """
    played = {cell.name: cell for cell in here}
    deviations: list[Deviation] = []
    unlike: list[str] = []
    not_run: list[str] = []
    for cell in committed:
        again = played.get(cell.name)
        if again is None:
            not_run.append(cell.name)
        elif again.status != cell.status:
            unlike.append(f"{cell.name}: {cell.status} as committed, {again.status} here")
        elif fields := differing(cell.card, again.card):
            unlike.append(f"{cell.name}: judged by another card ({', '.join(fields)})")
        elif cell.status == DONE:
            deviations += _deviations(cell, again)
    return Reproduction(tuple(deviations), tuple(unlike), tuple(not_run))


def _deviations(committed: CellResult, here: CellResult) -> list[Deviation]:
    sides = (("base", committed.base, here.base), ("student", committed.student, here.student))
    return [
        Deviation(here.name, side, metric, before.get(metric), after.get(metric))
        for side, before, after in sides
        for metric in TOLERANCES
    ]
