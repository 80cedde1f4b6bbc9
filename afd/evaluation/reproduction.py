"""Whether a grid that was played anew says what the committed one says, number by number.

On one kind of CPU both are equal to the last bit. Between kinds the last bits of sums differ, and
eight rounds of sampling, scoring and selecting make of that about what another noise seed makes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from afd.evaluation.comparison import differing
from afd.evaluation.results import DONE, CellResult


@dataclass(frozen=True)
class Tolerance:
    """How far another kind of CPU may move a number: `absolute` + `share` of the committed one."""

    absolute: float
    share: float = 0.0

    def allowed(self, committed: float | None) -> float:
        if committed is None or not math.isfinite(committed):
            return self.absolute
        return self.absolute + self.share * abs(committed)

    def __str__(self) -> str:
        share = f" + {self.share:.0%} of it" if self.share else ""
        return f"{self.absolute:g}{share}"


# From 58 cells, Intel against AMD (docs/lab-notes.md): all but one lie within, and that one, a
# discriminator at too high a learning rate, never settles. The look's distance spans three orders
# of size, so a share of it is allowed on top.
TOLERANCES = {
    "trajectory_error_px": Tolerance(0.25),
    "gravity": Tolerance(0.015),
    "object_permanence": Tolerance(0.03),
    "interpenetration": Tolerance(0.35),
    "motion": Tolerance(0.07),
    "sharpness": Tolerance(0.01),
    "frechet_distance": Tolerance(0.1, share=0.1),
}


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
    def used(self) -> float:
        """The size as a share of what the tolerance allows."""
        return self.size / TOLERANCES[self.metric].allowed(self.committed)

    @property
    def is_within(self) -> bool:
        """Whether another kind of CPU explains it."""
        return self.used <= 1.0


@dataclass(frozen=True)
class Reproduction:
    """Deviations of the cells that ran here; `unlike`: what cannot be compared, in words."""

    deviations: tuple[Deviation, ...]
    unlike: tuple[str, ...]
    not_run: tuple[str, ...] = ()  # names of committed cells that never ran here

    @property
    def is_reproduced(self) -> bool:
        """Whether something ran here, and all of it is what another kind of CPU explains."""
        return bool(self.cells) and not self.outside and not self.unlike

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
        """Of one metric, the one that uses most of its tolerance first."""
        found = (one for one in self.deviations if one.metric == metric)
        return sorted(found, key=lambda one: -one.used)


def reproduction(committed: Sequence[CellResult], here: Iterable[CellResult]) -> Reproduction:
    """Return the deviations of every committed cell that ran here.

    A cell that ended otherwise, or that another card measured, is unlike.
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
