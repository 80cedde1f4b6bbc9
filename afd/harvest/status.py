"""Counts from the ledger of a store, for `afd harvest status` and plans."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from afd.clips.library import clip_paths
from afd.clips.lookup import shards_by_key
from afd.clips.requests import TeacherSpec
from afd.harvest.ledger import Ledger
from afd.harvest.states import AT_VENDOR, STATES, WITHOUT_CLIP, OrderState
from afd.store import Store

NO_CATEGORY = "(none)"


@dataclass(frozen=True)
class ModelOrders:
    """Orders of one provider and model."""

    provider: str
    model: str
    states: Mapping[OrderState, int]
    spent: int  # micro-dollars
    reserved: int

    @property
    def at_vendor(self) -> int:
        return sum(self.states.get(state, 0) for state in AT_VENDOR)


@dataclass(frozen=True)
class Refusals:
    """Refusals of one category of prompts; they bend the teacher's distribution."""

    category: str
    num_answered: int  # ended orders, with or without a clip
    num_refused_input: int
    num_refused_output: int

    @property
    def rate(self) -> float:
        """Share of the ended orders that were refused."""
        refused = self.num_refused_input + self.num_refused_output
        return refused / self.num_answered if self.num_answered else 0.0


def orders_by_model(ledger: Ledger) -> list[ModelOrders]:
    """Return the orders of each provider and model."""
    found: dict[tuple[str, str], Counter[OrderState]] = {}
    money: Counter[tuple[str, str, str]] = Counter()
    for row in ledger.query(
        "SELECT provider, model, state, count(*) AS num, sum(spent) AS spent, "
        "sum(reserved) AS reserved FROM orders GROUP BY provider, model, state"
    ):
        who = (row["provider"], row["model"])
        found.setdefault(who, Counter())[row["state"]] = row["num"]
        money[*who, "spent"] += row["spent"]
        money[*who, "reserved"] += row["reserved"]
    return [
        ModelOrders(*who, _in_order(states), money[*who, "spent"], money[*who, "reserved"])
        for who, states in sorted(found.items())
    ]


def num_missing_clips(store: Store, ledger: Ledger, orders: ModelOrders) -> int:
    """Return the number of verified clips in neither library nor shard. Raises StoreError."""
    verified = ledger.query(
        "SELECT key FROM orders WHERE provider = ? AND model = ? AND state = 'verified'",
        (orders.provider, orders.model),
    )
    gone = {row["key"] for row in verified} - clip_paths(store).keys()
    return len(gone - shards_by_key(store).keys()) if gone else 0


def refusals(ledger: Ledger, provider: str, model: str) -> list[Refusals]:
    """Return the refusals by category of the prompt, the most refused first."""
    counted: dict[str, Counter[str]] = {}
    for row in ledger.query(
        "SELECT category, state, count(*) AS num FROM orders WHERE provider = ? AND model = ? "
        "GROUP BY category, state",
        (provider, model),
    ):
        name = row["category"] or NO_CATEGORY
        counted.setdefault(name, Counter())[row["state"]] += row["num"]
    found = [
        Refusals(
            category,
            sum(states[state] for state in ("verified", *WITHOUT_CLIP)),
            states["refused_input"],
            states["refused_output"],
        )
        for category, states in counted.items()
    ]
    return sorted(found, key=lambda refused: (-refused.rate, refused.category))


def median_task_s(ledger: Ledger, spec: TeacherSpec) -> float | None:
    """Return the median seconds of this teacher's last 200 tasks; None before the first."""
    rows = ledger.query(
        "SELECT finished_at - submitted_at AS seconds FROM orders WHERE provider = ? "
        "AND model = ? AND state = 'verified' AND submitted_at IS NOT NULL "
        "ORDER BY finished_at DESC LIMIT 200",
        (spec.provider, spec.model),
    )
    return median(row["seconds"] for row in rows) if rows else None


def _in_order(states: Mapping[OrderState, int]) -> dict[OrderState, int]:
    return {state: states[state] for state in STATES if states.get(state)}
