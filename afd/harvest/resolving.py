"""What a person knows of an order and the ledger cannot: said once, checked, and written down."""

import json
import re
import time

from afd.clips.library import find_clip
from afd.clips.requests import ClipRequest
from afd.harvest.ledger import Ledger
from afd.harvest.rows import BY_HAND, Row, is_unknown_to_vendor, named_by_hand
from afd.harvest.transitions import AT_VENDOR, STATES, WITHOUT_CLIP
from afd.store import Store

MIN_PREFIX = 6
MAX_ATTEMPTS = 10
# Of an order whose task a person named: whatever became of that task, it may have been another one.
MISNAMED = ("ambiguous", *AT_VENDOR, "succeeded", "downloaded", *WITHOUT_CLIP)


class ResolveError(ValueError):
    """An order that cannot be settled this way: which, why, what can be done."""


def find_all(ledger: Ledger, which: str) -> list[Row]:
    """The last attempts of all wants in a state, by its name; or the one order of a key."""
    if which not in STATES:
        return [find(ledger, which)]
    last = "NOT EXISTS (SELECT 1 FROM orders l WHERE l.slot = orders.slot AND l.attempt > "
    return ledger.rows(f"state = ? AND {last} orders.attempt)", (which,))


def find(ledger: Ledger, prefix: str) -> Row:
    """The order whose key begins so. Raises ResolveError for none or several."""
    if len(prefix) < MIN_PREFIX or not set(prefix) <= set("0123456789abcdef"):
        raise ResolveError(f"{prefix!r}: write {MIN_PREFIX} or more of a key's hex digits")
    found = ledger.rows("key >= ? AND key < ? LIMIT 2", (prefix, prefix + "g"))
    if len(found) != 1:
        many = "several orders begin" if found else "no order begins"
        raise ResolveError(f"{prefix}: {many} so; see `afd harvest status`")
    return found[0]


def created(ledger: Ledger, row: Row, task_id: str) -> Row:
    """The provider has the task: the next run polls it. Said again, it corrects what was typed.

    Raises ResolveError, TaskTakenError, LostOrderError.
    """
    task_id = task_id.strip()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,399}", task_id):
        raise ResolveError(f"{task_id[:80]!r} is no task id; copy it from the provider's console")
    reserved = named_by_hand(row)
    if reserved is not None:
        _only(row, MISNAMED)
        return ledger.name_again(row.key, task_id, reserved)
    _only(row, ("ambiguous",))
    told = {"task_id": task_id, "submitted_at": time.time(), "reason": "a person found its task"}
    facts = json.dumps({BY_HAND: row.reserved})
    return ledger.move(row.key, "submitted", by_hand=True, facts=facts, **told)


def never_created(ledger: Ledger, row: Row) -> Row:
    """The provider has no such task: the next run sends it. Raises ResolveError, LostOrderError.

    Also where a person had named a task, and the provider did not know it.
    """
    if is_unknown_to_vendor(row):
        return ledger.unname(row.key)
    _only(row, ("ambiguous",))
    told = {"reason": "a person found that it was never created"}
    return ledger.move(row.key, "planned", by_hand=True, **told)


def again(ledger: Ledger, row: Row) -> Row:
    """One more attempt at what ended without a clip, to be paid on its own. Raises ResolveError."""
    _only(row, WITHOUT_CLIP)
    asked = ledger.asked(row.asked)
    (last,) = ledger.rows("slot = ? ORDER BY attempt DESC LIMIT 1", (row.slot,))
    if last.attempt != row.attempt:
        tried = f"was tried again already, attempt {last.attempt} is {last.state}"
        raise ResolveError(f"{row.key[:12]}: {tried}")
    if row.attempt >= MAX_ATTEMPTS:
        raise ResolveError(f"{row.key[:12]}: attempt {row.attempt} was the last one there is")
    want = ClipRequest(row.slot, row.prompt_id, row.prompt, row.category, row.sample)
    ledger.plan(asked, [(want, row.attempt + 1)])
    if is_unknown_to_vendor(row):  # nobody will ever bill it
        ledger.move(row.key, row.state, by_hand=True, reserved=0)
    return ledger.rows("slot = ? AND attempt = ?", (row.slot, row.attempt + 1))[0]


def lost(store: Store, ledger: Ledger, row: Row) -> Row:
    """The clip of a paid order is gone for good: one more attempt. Raises ResolveError.

    From the disk, where it was verified; at the vendor, where a finished task is shown no more.
    Raises LostOrderError where it is worked on.
    """
    _only(row, ("verified", "succeeded"))
    if find_clip(store, row.key) is not None:
        raise ResolveError(f"{row.key[:12]}: its clip stands in {store.clips}; nothing to order")
    if row.state == "succeeded":
        told = "a person found that the vendor has it no more"
        return again(
            ledger, ledger.move(row.key, "expired_unrecoverable", by_hand=True, reason=told)
        )
    return again(ledger, ledger.move(row.key, "lost", by_hand=True, reason="lost from the disk"))


def _only(row: Row, states: tuple[str, ...]) -> None:
    if row.state not in states:
        raise ResolveError(f"{row.key[:12]}: is {row.state}, this is for {', '.join(states)}")
