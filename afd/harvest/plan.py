"""Plan of a harvest before it is sent: clips, money, hours, stored clips."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from afd.clips.lookup import find_clips
from afd.clips.requests import ClipRequest, distinct, teacher_spec
from afd.config import RemoteTeacher
from afd.harvest import budget
from afd.harvest.ledger import Ledger
from afd.harvest.order import ProviderMoney
from afd.harvest.schema import ledger_path
from afd.harvest.states import ENDS, OrderState
from afd.harvest.status import Refusals, median_task_s, refusals
from afd.store import Store

UNMEASURED_S = 120.0  # assumed time of a task before a pilot has measured it
REQUESTS_A_CLIP = 5  # a creation and some polls


@dataclass(frozen=True)
class Plan:
    """Plan over distinct requests; money in micro-dollars."""

    num_wanted: int
    num_repeated: int  # requested again, paid once
    num_in_store: int  # nothing to pay
    num_missing: int  # paid and verified, but the store lost their clips
    states: Mapping[OrderState, int]  # of the other orders of those that have no clip yet
    num_to_order: int
    price: int  # of one, as reserved
    money: ProviderMoney
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


def plan(store: Store, teacher: RemoteTeacher, requests: Sequence[ClipRequest]) -> Plan:
    """Return the plan from store and ledger, without a write. Errors: StoreError."""
    spec, access = teacher_spec(teacher), teacher.access
    single = list(distinct(requests))
    stored = find_clips(store, spec, single)
    with _ledger(store.root) as ledger:
        last_attempts = ledger.last_attempts(spec)
        typical = median_task_s(ledger, spec)
        spent = ledger.money(spec.provider)
        refused = refusals(ledger, spec.provider, spec.model)
    states: dict[OrderState, int] = {}
    num_to_order = num_missing = 0
    for request in single:
        if request.request_id in stored:
            continue
        attempt, state = last_attempts.get(request.request_id, (0, None))
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
        num_repeated=len(requests) - len(single),
        num_in_store=len(stored),
        num_missing=num_missing,
        states=states,
        num_to_order=num_to_order,
        price=budget.reservation(access.price, teacher.duration_s),
        money=spent,
        cap=budget.to_micro_usd(access.budget_usd),
        task_s=task_s,
        is_measured=typical is not None,
        hours=max(by_slots, by_rate) / 3600,
        refused=[one for one in refused if one.rate],
    )


@contextmanager
def _ledger(root: Path) -> Iterator[Ledger]:
    """Open the ledger of a store, or an empty temporary one if the store has none."""
    with ExitStack() as stack:
        if not ledger_path(root).exists():
            root = Path(stack.enter_context(TemporaryDirectory(prefix="afd-ledger-")))
        yield stack.enter_context(Ledger(root))
