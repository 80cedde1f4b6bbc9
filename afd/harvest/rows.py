"""An order as it stands in the ledger, and what a provider has cost."""

import json
from dataclasses import dataclass, fields

from afd.clips.requests import TeacherSpec, order_key, order_seed
from afd.harvest.transitions import OrderState
from afd.teachers.remote import Order


@dataclass(frozen=True, slots=True)
class Row:
    """An order as it stands; money in micro-dollars, times in seconds since 1970."""

    key: str
    slot: str
    attempt: int
    asked: int
    provider: str
    model: str
    prompt: str
    prompt_id: str
    category: str | None
    sample: int
    state: OrderState
    vendor_state: str | None
    reason: str | None
    task_id: str | None
    poll_url: str | None
    owner: str | None
    reserved: int
    spent: int
    returned_seed: int | None
    facts: str | None  # JSON: what is known of the clip
    planned_at: float
    submitted_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class Money:
    """Of one provider over the whole store, in micro-dollars."""

    spent: int
    reserved: int


BY_HAND = "reserved_when_named_by_hand"  # in `facts`: micro-dollars


def named_by_hand(row: Row) -> int | None:
    """What was reserved for an order when a person named its task; None where nobody did."""
    reserved = json.loads(row.facts or "{}").get(BY_HAND)
    return reserved if isinstance(reserved, int) else None


UNKNOWN_TASK = "the vendor knows no task"  # how the reason of such an order begins


def is_unknown_to_vendor(row: Row) -> bool:
    """Whether a person named a task that the vendor then did not know: nothing was created so."""
    named = row.state == "stalled" and named_by_hand(row) is not None
    return named and (row.reason or "").startswith(UNKNOWN_TASK)


COLUMNS = ", ".join(field.name for field in fields(Row))


def adapter_order(slot: str, prompt: str, attempt: int, asked: TeacherSpec) -> Order:
    """What an adapter is handed."""
    return Order(
        key=order_key(slot, attempt, seeded=asked.seeded),
        prompt=prompt,
        seed=order_seed(slot, attempt) if asked.seeded else None,
        model=asked.model,
        parameters=asked.parameters,
        duration_s=asked.duration_s,
        fps=asked.fps,
        size=asked.size,
    )
