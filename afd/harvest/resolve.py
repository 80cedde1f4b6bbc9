"""Manual resolution of orders: facts that only a person can find, checked and written."""

import json
import time

from afd.clips.library import find_clip
from afd.clips.requests import ClipRequest
from afd.errors import InputError
from afd.harvest.ledger import Ledger
from afd.harvest.order import BY_HAND, OrderRow, is_unknown_to_vendor, named_by_hand
from afd.harvest.states import AT_VENDOR, STATES, WITHOUT_CLIP
from afd.store import Store
from afd.teachers.vendors import sanitise

MIN_PREFIX = 6
MAX_ATTEMPTS = 10
# States of an order whose task id a person gave: that id may have been wrong.
MISNAMED = ("ambiguous", *AT_VENDOR, "succeeded", "downloaded", *WITHOUT_CLIP)


class ResolveError(InputError):
    """An order that cannot be resolved so; the text names order, reason and cure."""


def find_all(ledger: Ledger, which: str) -> list[OrderRow]:
    """Return the last attempts in a state, by its name; or the one order of a key."""
    if which not in STATES:
        return [find(ledger, which)]
    last = "NOT EXISTS (SELECT 1 FROM orders l WHERE l.slot = orders.slot AND l.attempt > "
    return ledger.rows(f"state = ? AND {last} orders.attempt)", (which,))


def find(ledger: Ledger, prefix: str) -> OrderRow:
    """Return the order whose key has this prefix. Raises ResolveError for none or several."""
    if len(prefix) < MIN_PREFIX or not set(prefix) <= set("0123456789abcdef"):
        raise ResolveError(f"{prefix!r}: write {MIN_PREFIX} or more of a key's hex digits")
    found = ledger.rows("key >= ? AND key < ? LIMIT 2", (prefix, prefix + "g"))
    if len(found) != 1:
        many = "several orders begin" if found else "no order begins"
        raise ResolveError(f"{prefix}: {many} so; see `afd harvest status`")
    return found[0]


def created(ledger: Ledger, row: OrderRow, task_id: str) -> OrderRow:
    """Record that the provider has the task; the next run polls it. A second call corrects the id.

    Raises ResolveError, TaskTakenError, LostOrderError.
    """
    task_id = task_id.strip()
    if not sanitise.is_task_id(task_id):
        raise ResolveError(f"{task_id[:80]!r} is no task id; copy it from the provider's console")
    reserved = named_by_hand(row)
    if reserved is not None:
        _only(row, MISNAMED)
        return ledger.name_again(row.key, task_id, reserved)
    _only(row, ("ambiguous",))
    columns = {"task_id": task_id, "submitted_at": time.time(), "reason": "a person found its task"}
    facts = json.dumps({BY_HAND: row.reserved})
    return ledger.move(row.key, "submitted", by_hand=True, facts=facts, **columns)


def never_created(ledger: Ledger, row: OrderRow) -> OrderRow:
    """Record that the provider has no such task; the next run sends it.

    Also valid after a person gave a task id that the provider does not find. Raises ResolveError,
    LostOrderError.
    """
    if is_unknown_to_vendor(row):
        return ledger.unname(row.key)
    _only(row, ("ambiguous",))
    columns = {"reason": "a person found that it was never created"}
    return ledger.move(row.key, "planned", by_hand=True, **columns)


def again(ledger: Ledger, row: OrderRow) -> OrderRow:
    """Plan one more attempt after an end without a clip; it costs anew. Raises ResolveError."""
    _only(row, WITHOUT_CLIP)
    spec = ledger.spec(row.spec_id)
    (last,) = ledger.rows("slot = ? ORDER BY attempt DESC LIMIT 1", (row.request_id,))
    if last.attempt != row.attempt:
        tried = f"was tried again already, attempt {last.attempt} is {last.state}"
        raise ResolveError(f"{row.key[:12]}: {tried}")
    if row.attempt >= MAX_ATTEMPTS:
        raise ResolveError(f"{row.key[:12]}: attempt {row.attempt} was the last one there is")
    request = ClipRequest(row.request_id, row.prompt_id, row.prompt, row.category, row.sample)
    ledger.plan(spec, [(request, row.attempt + 1)])
    if is_unknown_to_vendor(row):  # it will never be billed
        ledger.move(row.key, row.state, by_hand=True, reserved=0)
    return ledger.rows("slot = ? AND attempt = ?", (row.request_id, row.attempt + 1))[0]


def lost(store: Store, ledger: Ledger, row: OrderRow) -> OrderRow:
    """Record that the clip of a paid order is gone for good; plan one more attempt.

    Gone from the disk for a verified order; gone at the vendor for a succeeded one. Raises
    ResolveError, and LostOrderError if a process works on it.
    """
    _only(row, ("verified", "succeeded"))
    if find_clip(store, row.key) is not None:
        raise ResolveError(f"{row.key[:12]}: its clip stands in {store.clips}; nothing to order")
    if row.state == "succeeded":
        columns = "a person found that the vendor has it no more"
        return again(
            ledger, ledger.move(row.key, "expired_unrecoverable", by_hand=True, reason=columns)
        )
    return again(ledger, ledger.move(row.key, "lost", by_hand=True, reason="lost from the disk"))


def _only(row: OrderRow, states: tuple[str, ...]) -> None:
    if row.state not in states:
        raise ResolveError(f"{row.key[:12]}: is {row.state}, this is for {', '.join(states)}")
