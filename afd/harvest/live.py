"""What a person watches of a run, and why one stopped."""

import time
from collections import Counter
from dataclasses import dataclass, field

from afd.harvest.desk import Why
from afd.harvest.rows import Row
from afd.harvest.transitions import ENDS, OrderState


@dataclass(frozen=True)
class Stop:
    """Why a run ended before everything was done."""

    why: Why
    told: str
    is_hard: bool


@dataclass
class Live:
    """What a person watches: of the wants of this run, and of the provider's money."""

    num_wanted: int
    states: Counter[OrderState] = field(default_factory=Counter[OrderState])
    kept: int = 0  # that were in the store before
    missing: int = 0  # that the ledger calls verified and the store does not have
    spent: int = 0
    reserved: int = 0
    cap: int = 0
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    num_made: int = 0  # clips that were ordered and delivered in this run
    news: str = ""

    @property
    def num_ended(self) -> int:
        """Orders that came to an end, in this run and before it."""
        return sum(self.states[state] for state in ENDS)

    @property
    def num_refused(self) -> int:
        return self.states["refused_input"] + self.states["refused_output"]

    @property
    def num_settled(self) -> int:
        """Wants that need nothing more."""
        return min(self.num_wanted, self.kept + self.num_ended)

    @property
    def per_hour(self) -> float | None:
        """Clips an hour from order to delivery; None before the first.

        What was ordered before this run and only fetched by it says nothing about the rate.
        """
        if not self.num_made:
            return None
        return self.num_made / max(1e-9, time.monotonic() - self.started) * 3600

    def moved(self, before: OrderState, row: Row) -> None:
        """An order of a want goes from one state to another."""
        self.states[before] -= 1
        self.states[row.state] += 1
        is_own = row.submitted_at is not None and row.submitted_at >= self.started_at
        self.num_made += row.state == "verified" and is_own
        if row.state in ("submitted", "verified"):  # it works again
            self.news = ""
