"""What the ledger of a store says, counted: for `afd harvest status`, plans and live progress."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from afd.clips.library import clip_paths
from afd.clips.lookup import shards_by_key
from afd.clips.requests import TeacherSpec
from afd.harvest.ledger import Ledger
from afd.harvest.transitions import AT_VENDOR, STATES, WITHOUT_CLIP, OrderState
from afd.store import Store

NO_CATEGORY = "(none)"


@dataclass(frozen=True)
class Standing:
    """The orders of one provider and model."""

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
    """How one category of prompts fared: what refusals do to the teacher's distribution."""

    category: str
    num_answered: int  # finished orders, whatever came of them
    num_refused_input: int
    num_refused_output: int

    @property
    def rate(self) -> float:
        """Share of the finished orders that were refused."""
        refused = self.num_refused_input + self.num_refused_output
        return refused / self.num_answered if self.num_answered else 0.0


def standings(ledger: Ledger) -> list[Standing]:
    """One a provider and model."""
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
        Standing(*who, _in_order(states), money[*who, "spent"], money[*who, "reserved"])
        for who, states in sorted(found.items())
    ]


def num_gone(store: Store, ledger: Ledger, standing: Standing) -> int:
    """How many verified clips stand in neither the vault nor a shard. Raises StoreError."""
    verified = ledger.query(
        "SELECT key FROM orders WHERE provider = ? AND model = ? AND state = 'verified'",
        (standing.provider, standing.model),
    )
    gone = {row["key"] for row in verified} - clip_paths(store).keys()
    return len(gone - shards_by_key(store).keys()) if gone else 0


def refusals(ledger: Ledger, provider: str, model: str) -> list[Refusals]:
    """By category of the prompt, the most refused first."""
    counted: dict[str, Counter[str]] = {}
    for row in ledger.query(
        "SELECT category, state, count(*) AS num FROM orders WHERE provider = ? AND model = ? "
        "GROUP BY category, state",
        (provider, model),
    ):
        name = row["category"] or NO_CATEGORY
        counted.setdefault(name, Counter())[row["state"]] += row["num"]
    told = [
        Refusals(
            category,
            sum(states[state] for state in ("verified", *WITHOUT_CLIP)),
            states["refused_input"],
            states["refused_output"],
        )
        for category, states in counted.items()
    ]
    return sorted(told, key=lambda refused: (-refused.rate, refused.category))


def typical_s(ledger: Ledger, asked: TeacherSpec) -> float | None:
    """Median seconds that a task of this teacher took, of the last 200; None before the first."""
    rows = ledger.query(
        "SELECT finished_at - submitted_at AS seconds FROM orders WHERE provider = ? "
        "AND model = ? AND state = 'verified' AND submitted_at IS NOT NULL "
        "ORDER BY finished_at DESC LIMIT 200",
        (asked.provider, asked.model),
    )
    return median(row["seconds"] for row in rows) if rows else None


def _in_order(states: Mapping[OrderState, int]) -> dict[OrderState, int]:
    return {state: states[state] for state in STATES if states.get(state)}
