"""What the orders of one run share: the teacher, the ledger, the way out, and who runs them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx

from afd.clips.requests import TeacherSpec
from afd.config import RemoteTeacher
from afd.harvest import money
from afd.harvest.clerk import Clerk
from afd.harvest.download import Downloaded
from afd.harvest.pace import Pace, Polling
from afd.harvest.provenance import Verdict
from afd.harvest.rows import Row
from afd.harvest.transitions import OrderState
from afd.store import Store
from afd.teachers import remote
from afd.teachers.remote import Video

Why = Literal[
    "unauthorised", "out_of_credit", "budget", "no_connection", "busy_vendor", "lost_replies",
    "rejected", "forbidden_host", "quarantined", "disk", "interrupted", "failure",
]  # fmt: skip


class Floor(Protocol):
    """What an order tells the engine that runs it beside others."""

    def moved(self, row: Row, before: OrderState) -> None: ...

    def freed(self, row: Row) -> None:
        """The vendor is done with it: its slot may be used, as soon as the ledger says so too."""
        ...

    def say(self, news: str) -> None: ...

    def stop(self, why: Why, told: str, *, hard: bool = False) -> None: ...

    async def sleep(self, seconds: float) -> None:
        """As long, or until everything stops (asyncio.CancelledError)."""
        ...


@dataclass
class Counter:
    """Failures in a row, over all orders."""

    not_sent: int = 0
    nothing_created: int = 0
    ambiguous: int = 0
    rejected: int = 0
    forbidden: int = 0
    quarantined: int = 0


@dataclass
class Desk:
    """What every order of a run shares."""

    teacher: RemoteTeacher
    asked: TeacherSpec
    vendor: remote.RemoteTeacher
    clerk: Clerk
    store: Store
    http: httpx.AsyncClient
    fetch: Callable[[Video, str], Awaitable[Downloaded]]  # into `incoming`, under an order's key
    judge: Callable[[Path], Awaitable[Verdict]]
    put_aside: Callable[[Path, str, dict[str, Any]], object]
    floor: Floor
    pace: Pace
    polling: Polling = field(default_factory=Polling)
    in_a_row: Counter = field(default_factory=Counter)
    num_heard: int = 0  # polls that were answered

    @property
    def reserve(self) -> int:
        return money.reservation(self.teacher.access.price, self.teacher.duration_s)

    @property
    def cap(self) -> int:
        return money.micro(self.teacher.access.budget_usd)

    @property
    def incoming(self) -> Path:
        """Where deliveries wait for their judge."""
        return incoming(self.store)

    async def move(self, row: Row, to: OrderState, **told: Any) -> Row:
        """The order's next state, in the ledger and on the floor."""
        after = await self.clerk(lambda ledger: ledger.move(row.key, to, **told))
        if after.state != row.state:
            self.floor.moved(after, row.state)
        return after


def incoming(store: Store) -> Path:
    """The folder of deliveries that are not judged yet, on the disk of the vault."""
    return store.root / "harvest" / "incoming"
