"""Rows of the ledger: an order, and the money of a provider."""

import json
from dataclasses import dataclass, fields

from afd.clips.requests import TeacherSpec, order_key, order_seed
from afd.harvest.states import OrderState
from afd.teachers.vendors.protocol import Order


@dataclass(frozen=True, slots=True)
class OrderRow:
    """One order; money in micro-dollars, times in seconds since 1970."""

    key: str
    request_id: str
    attempt: int
    spec_id: int
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
    facts: str | None  # JSON about the clip
    planned_at: float
    submitted_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class ProviderMoney:
    """Money of one provider over the whole store, in micro-dollars."""

    spent: int
    reserved: int


BY_HAND = "reserved_when_named_by_hand"  # in `facts`: micro-dollars


def named_by_hand(row: OrderRow) -> int | None:
    """Return the reservation of an order whose task id a person gave, else None."""
    reserved = json.loads(row.facts or "{}").get(BY_HAND)
    return reserved if isinstance(reserved, int) else None


UNKNOWN_TASK = "the vendor knows no task"  # the first words of such an order's reason


def is_unknown_to_vendor(row: OrderRow) -> bool:
    """Return True if a person gave a task id that the vendor did not find."""
    named = row.state == "stalled" and named_by_hand(row) is not None
    return named and (row.reason or "").startswith(UNKNOWN_TASK)


_COLUMN_OF = {"request_id": "slot", "spec_id": "asked"}  # names that stores of version 1 hold
COLUMNS = ", ".join(_COLUMN_OF.get(field.name, field.name) for field in fields(OrderRow))


def adapter_order(request_id: str, prompt: str, attempt: int, spec: TeacherSpec) -> Order:
    """Return the order as an adapter takes it."""
    return Order(
        key=order_key(request_id, attempt, seeded=spec.seeded),
        prompt=prompt,
        seed=order_seed(request_id, attempt) if spec.seeded else None,
        model=spec.model,
        parameters=spec.parameters,
        duration_s=spec.duration_s,
        fps=spec.fps,
        size=spec.size,
    )
