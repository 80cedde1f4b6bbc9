"""A created task, polled until the vendor has an end for it or its deadline passes."""

import asyncio
import json
import time

from afd.failpoints import failpoint
from afd.harvest import money
from afd.harvest.desk import Desk
from afd.harvest.pace import MAX_PAUSE_S, backoff_s
from afd.harvest.rows import UNKNOWN_TASK, Row, named_by_hand
from afd.harvest.submitting import task_of
from afd.harvest.transitions import OrderState, follows
from afd.teachers import remote
from afd.teachers.remote import Progress, State

MAX_SILENT_POLLS = 10  # failures in a row of one task: about five minutes
MAX_ABSENT = 3  # looks at a task that a person named and the vendor does not know
STATE_OF: dict[State, OrderState] = {
    "queued": "submitted",
    "running": "running",
    "unknown": "unknown",
    "succeeded": "succeeded",
    "refused_input": "refused_input",
    "refused_output": "refused_output",
    "failed": "failed_final",
    "expired": "expired",
    "cancelled": "cancelled",
}


async def watch(desk: Desk, row: Row, *, at_once: bool = False) -> tuple[Row, Progress | None]:
    """Poll a created task until the vendor has an end for it, or its deadline passes.

    Gives the row and, when it succeeded, what the poll showed. `at_once`: a task of an earlier run.
    """
    started = row.submitted_at or time.time()
    guess, num_looks, vain = desk.polling.guess, 0, 0.0
    wait = 0.0 if at_once else desk.polling.wait_s(guess, 0, time.time() - started)
    while True:
        await desk.floor.sleep(wait)
        asked_at = time.time() - started
        progress = await look(desk, row)
        elapsed, num_looks = time.time() - started, num_looks + 1
        state = STATE_OF[progress.state]
        if state not in ("submitted", "running", "unknown"):
            if not at_once:
                desk.polling.finished(guess, num_looks, vain, asked_at)
            desk.floor.freed(row)  # before the commit: the next claim joins it
            return await settle(desk, row, progress), progress
        row = await _note(desk, row, state, progress.vendor_state)
        if progress.is_absent and num_looks >= MAX_ABSENT and named_by_hand(row) is not None:
            return await desk.move(row, "stalled", reason=_misnamed(row)), None
        if elapsed > desk.teacher.access.deadline_min * 60:
            told = f"no end after {elapsed / 60:.0f} min, last said {progress.vendor_state}"
            return await desk.move(row, "stalled", reason=told), None
        vain = asked_at
        wait = max(
            desk.polling.wait_s(guess, num_looks, elapsed),
            min(progress.retry_after_s or 0.0, MAX_PAUSE_S),
        )


def _misnamed(row: Row) -> str:
    return (
        f"{UNKNOWN_TASK} {row.task_id}, which a person named: correct it with "
        f"`afd harvest resolve {row.key[:12]} --created ID`, or with --never-created"
    )


async def look(desk: Desk, row: Row) -> Progress:
    """One poll, tried again while the vendor stumbles.

    Where it answers none at all everything halts, and this order with it (CancelledError): silence
    says nothing about a task, and a paid one stays as it is. Where it answers others and this one
    never, the task is unknown.
    """
    heard = desk.num_heard
    for failures in range(1, MAX_SILENT_POLLS + 1):
        await desk.pace.turn()
        try:
            progress = await desk.vendor.poll(desk.http, task_of(desk.vendor, row))
        except remote.UnauthorisedError as error:
            desk.floor.stop("unauthorised", error.text, hard=True)
            await desk.floor.sleep(0.0)  # ends here
        except (remote.VendorError, remote.NotSentError) as error:
            is_told = isinstance(error, remote.UnknownTaskError)
            if is_told and failures >= MAX_ABSENT and named_by_hand(row) is not None:
                return Progress("unknown", "no answer", reason=error.text, is_absent=True)
            seconds = min(max(backoff_s(failures), error.retry_after_s or 0.0), MAX_PAUSE_S)
            desk.floor.say(f"polling: {error.text}; again in {seconds:.0f} s")
            await desk.floor.sleep(seconds)
        else:
            desk.num_heard += 1
            return progress
    if desk.num_heard > heard:
        return Progress("unknown", "no answer")
    desk.floor.stop("no_connection", "the vendor does not answer polls", hard=True)
    raise asyncio.CancelledError


async def settle(desk: Desk, row: Row, progress: Progress, *, by_hand: bool = False) -> Row:
    """The vendor's end of a task, and what it cost. Told twice, it changes nothing.

    `by_hand`: of a task that nobody works on, a stalled one.
    """
    state = STATE_OF[progress.state]
    if row.state == state or not follows(row.state, state):
        return row
    usage = progress.usage
    price, is_delivered = desk.teacher.access.price, state == "succeeded"
    spent = money.cost(price, usage, row.reserved, delivered=is_delivered)
    told = json.loads(row.facts or "{}") | {
        "usage": None
        if usage is None
        else {"usd": usage.usd, "tokens": usage.tokens, "seconds": usage.seconds},
        "num_videos": len(progress.videos),
        "ran_model": progress.model,
        "ended_at": time.time(),
    }
    row = await desk.move(
        row,
        state,
        vendor_state=progress.vendor_state,
        reason=progress.reason,
        returned_seed=progress.seed,
        reserved=0,
        spent=spent,
        facts=json.dumps(told),
        by_hand=by_hand,
    )
    failpoint("harvest.settled")
    return row


async def _note(desk: Desk, row: Row, state: OrderState, vendor_state: str) -> Row:
    """A task that goes on: written only when the vendor's word has changed, and never backwards."""
    if row.vendor_state == vendor_state or (state != row.state and not follows(row.state, state)):
        return row
    return await desk.move(row, state, vendor_state=vendor_state)
