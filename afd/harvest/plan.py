"""What a harvest would take, before anything is sent: clips, money, hours, what is there."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from afd.clips.lookup import find_clips
from afd.clips.requests import ClipRequest, distinct, teacher_spec
from afd.config import RemoteTeacher
from afd.harvest import money
from afd.harvest.ledger import Ledger
from afd.harvest.rows import Money
from afd.harvest.status import Refusals, refusals, typical_s
from afd.harvest.tables import ledger_path
from afd.harvest.transitions import ENDS, OrderState
from afd.store import Store

UNMEASURED_S = 120.0  # what a task is taken to last before a pilot has shown it
REQUESTS_A_CLIP = 5  # a creation and some polls


@dataclass(frozen=True)
class Plan:
    """Of distinct wants; money in micro-dollars."""

    num_wanted: int
    num_repeated: int  # wanted again, paid once
    num_kept: int  # in the store: nothing to pay
    num_missing: int  # paid and verified, but their clips are not there any more
    states: Mapping[OrderState, int]  # of the other orders of those that have no clip yet
    num_to_order: int
    price: int  # of one, as reserved
    money: Money
    cap: int
    task_s: float
    is_measured: bool  # task_s, from this teacher's last tasks
    hours: float
    refused: Sequence[Refusals]  # by category, of this model's orders so far

    @property
    def cost(self) -> int:
        return self.num_to_order * self.price

    @property
    def is_affordable(self) -> bool:
        return self.money.spent + self.money.reserved + self.cost <= self.cap


def plan(store: Store, teacher: RemoteTeacher, wants: Sequence[ClipRequest]) -> Plan:
    """Ask the store and the ledger; nothing is written there. Errors: StoreError."""
    asked, access = teacher_spec(teacher), teacher.access
    single = list(distinct(wants))
    kept = find_clips(store, asked, single)
    with _ledger(store.root) as ledger:
        standing = ledger.standing(asked)
        typical = typical_s(ledger, asked)
        spent = ledger.money(asked.provider)
        refused = refusals(ledger, asked.provider, asked.model)
    states: dict[OrderState, int] = {}
    num_to_order = num_missing = 0
    for want in single:
        if want.slot in kept:
            continue
        attempt, state = standing.get(want.slot, (0, None))
        is_retried = state == "refused_output" and attempt < teacher.num_retries
        if state is None or state == "planned" or is_retried:
            num_to_order += 1
        elif state == "verified":
            num_missing += 1
        else:
            states[state] = states.get(state, 0) + 1
    task_s = UNMEASURED_S if typical is None else typical
    open_orders = sum(number for state, number in states.items() if state not in ENDS)
    by_slots = (num_to_order + open_orders) * task_s / access.in_flight
    by_rate = num_to_order * REQUESTS_A_CLIP / access.requests_per_minute * 60
    return Plan(
        num_wanted=len(single),
        num_repeated=len(wants) - len(single),
        num_kept=len(kept),
        num_missing=num_missing,
        states=states,
        num_to_order=num_to_order,
        price=money.reservation(access.price, teacher.duration_s),
        money=spent,
        cap=money.micro(access.budget_usd),
        task_s=task_s,
        is_measured=typical is not None,
        hours=max(by_slots, by_rate) / 3600,
        refused=[one for one in refused if one.rate],
    )


@contextmanager
def _ledger(root: Path) -> Iterator[Ledger]:
    """Open the ledger of a store; an empty one elsewhere where nothing was ordered yet."""
    with ExitStack() as stack:
        if not ledger_path(root).exists():
            root = Path(stack.enter_context(TemporaryDirectory(prefix="afd-ledger-")))
        yield stack.enter_context(Ledger(root))
