"""Progress of a harvest, and the reason of its stop."""

import time
from collections import Counter
from dataclasses import dataclass, field

from afd.harvest.context import StopReason
from afd.harvest.order import OrderRow
from afd.harvest.states import ENDS, OrderState


@dataclass(frozen=True)
class Stop:
    """Early end of a run: its reason, and if open tasks were left."""

    reason: StopReason
    text: str
    is_hard: bool


@dataclass
class HarvestProgress:
    """Live numbers: the requests of this run, and the money of the provider."""

    num_wanted: int
    states: Counter[OrderState] = field(default_factory=Counter[OrderState])
    num_in_store: int = 0  # requests whose clip was in the store before
    missing: int = 0  # clips in the state verified that the store does not have
    spent: int = 0
    reserved: int = 0
    cap: int = 0
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    num_made: int = 0  # clips that were ordered and delivered in this run
    news: str = ""

    @property
    def num_ended(self) -> int:
        """Number of ended orders, in this run and before it."""
        return sum(self.states[state] for state in ENDS)

    @property
    def num_refused(self) -> int:
        return self.states["refused_input"] + self.states["refused_output"]

    @property
    def num_done(self) -> int:
        """Number of requests with a clip or an end."""
        return min(self.num_wanted, self.num_in_store + self.num_ended)

    @property
    def per_hour(self) -> float | None:
        """Clips per hour from order to delivery; None before the first.

        Orders of an earlier run do not count.
        """
        if not self.num_made:
            return None
        return self.num_made / max(1e-9, time.monotonic() - self.started) * 3600

    def moved(self, before: OrderState, row: OrderRow) -> None:
        """Count an order's move from one state to another."""
        self.states[before] -= 1
        self.states[row.state] += 1
        is_own = row.submitted_at is not None and row.submitted_at >= self.started_at
        self.num_made += row.state == "verified" and is_own
        if row.state in ("submitted", "verified"):  # it works again
            self.news = ""
