"""Context that all orders of one run share: teacher, ledger, HTTP clients and engine."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx

from afd.clips.requests import TeacherSpec
from afd.config import RemoteTeacher
from afd.harvest import budget
from afd.harvest.download import Downloaded
from afd.harvest.ledger_thread import LedgerThread
from afd.harvest.order import OrderRow
from afd.harvest.pace import Pace, Polling
from afd.harvest.provenance import InspectionResult
from afd.harvest.states import OrderState
from afd.store import Store
from afd.teachers.vendors import protocol
from afd.teachers.vendors.protocol import Video

StopReason = Literal[
    "unauthorised", "out_of_credit", "budget", "no_connection", "busy_vendor", "lost_replies",
    "rejected", "forbidden_host", "quarantined", "disk", "interrupted", "failure",
    "asked_to_wait",
]  # fmt: skip


class EngineControl(Protocol):
    """Calls of an order to the engine that runs it."""

    def moved(self, row: OrderRow, before: OrderState) -> None: ...

    def freed(self, row: OrderRow) -> None:
        """Release the order's slot at the vendor; the ledger's commit comes after."""
        ...

    def report(self, news: str) -> None: ...

    def stop(self, reason: StopReason, text: str, *, hard: bool = False) -> None: ...

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`; raise asyncio.CancelledError at a hard stop."""
        ...


@dataclass
class Counter:
    """Counts of consecutive failures over all orders."""

    not_sent: int = 0
    nothing_created: int = 0
    ambiguous: int = 0
    rejected: int = 0
    forbidden: int = 0
    quarantined: int = 0


@dataclass
class RunContext:
    """Objects and limits that all orders of a run share."""

    teacher: RemoteTeacher
    spec: TeacherSpec
    vendor: protocol.RemoteTeacher
    in_ledger: LedgerThread
    store: Store
    http: httpx.AsyncClient
    fetch: Callable[[Video, str], Awaitable[Downloaded]]  # into `incoming`, under an order's key
    inspect: Callable[[Path], Awaitable[InspectionResult]]
    put_aside: Callable[[Path, str, dict[str, Any]], str]  # returns a description of the file
    engine: EngineControl
    pace: Pace
    polling: Polling = field(default_factory=Polling)
    in_a_row: Counter = field(default_factory=Counter)
    num_polls_answered: int = 0  # polls that were answered

    @property
    def reserve(self) -> int:
        return budget.reservation(self.teacher.access.price, self.teacher.duration_s)

    @property
    def cap(self) -> int:
        return budget.to_micro_usd(self.teacher.access.budget_usd)

    @property
    def incoming(self) -> Path:
        """Folder of deliveries before their inspection."""
        return incoming(self.store)

    async def move(self, row: OrderRow, to: OrderState, **columns: Any) -> OrderRow:
        """Write the order's next state to the ledger and report it to the engine."""
        after = await self.in_ledger(lambda ledger: ledger.move(row.key, to, **columns))
        if after.state != row.state:
            self.engine.moved(after, row.state)
        return after


def incoming(store: Store) -> Path:
    """Return the folder of deliveries before their inspection, on the library's disk."""
    return store.root / "harvest" / "incoming"
