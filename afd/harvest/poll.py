"""Polling of a created task until the vendor reports an end or the deadline passes."""

import asyncio
import json
import time

from afd.failpoints import failpoint
from afd.harvest import budget
from afd.harvest.context import RunContext
from afd.harvest.order import UNKNOWN_TASK, OrderRow, named_by_hand
from afd.harvest.pace import LONGEST_WAIT_S, MAX_PAUSE_S, backoff_s, requested_wait
from afd.harvest.states import OrderState, may_follow
from afd.harvest.submit import task_of
from afd.teachers.vendors import protocol
from afd.teachers.vendors.protocol import Progress, State

MAX_SILENT_POLLS = 10  # failures in a row of one task: about five minutes
ANSWER = "vendor_answer"  # in an order's facts
MAX_ABSENT = 3  # polls of a task id that a person gave and the vendor does not find
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


async def poll_until_end(
    context: RunContext, row: OrderRow, *, at_once: bool = False
) -> tuple[OrderRow, Progress | None]:
    """Poll a created task until the vendor reports an end, or its deadline passes.

    Return the row and the last poll's result. `at_once`: a task of an earlier run.
    """
    started = row.submitted_at or time.time()
    guess, num_looks, vain = context.polling.guess, 0, 0.0
    wait = 0.0 if at_once else context.polling.wait_s(guess, 0, time.time() - started)
    while True:
        await context.engine.sleep(wait)
        polled_at = time.time() - started
        progress = await poll_once(context, row)
        elapsed, num_looks = time.time() - started, num_looks + 1
        state = STATE_OF[progress.state]
        if state not in ("submitted", "running", "unknown"):
            if not at_once:
                context.polling.finished(guess, num_looks, vain, polled_at)
            context.engine.freed(row)  # before the commit: the next claim joins it
            return await record_end(context, row, progress), progress
        row = await _note(context, row, state, progress)
        if progress.is_absent and num_looks >= MAX_ABSENT and named_by_hand(row) is not None:
            return await context.move(row, "stalled", reason=_misnamed(row)), None
        if elapsed > context.teacher.access.deadline_min * 60:
            reason = f"no end after {elapsed / 60:.0f} min, last said {progress.vendor_state}"
            reason += f"; its answer: {progress.answer}" if progress.answer else ""
            return await context.move(row, "stalled", reason=reason), None
        vain = polled_at
        wait = max(
            context.polling.wait_s(guess, num_looks, elapsed),
            min(progress.retry_after_s or 0.0, MAX_PAUSE_S),
        )


def _misnamed(row: OrderRow) -> str:
    return (
        f"{UNKNOWN_TASK} {row.task_id}, which a person named: correct it with "
        f"`afd harvest resolve {row.key[:12]} --created ID`, or with --never-created"
    )


async def poll_once(context: RunContext, row: OrderRow) -> Progress:
    """Poll once, with retries while the vendor fails.

    If the vendor answers no poll at all, the run stops and this call raises CancelledError: a paid
    task keeps its state. If it answers polls of other tasks only, the task is unknown.
    """
    num_before = context.num_polls_answered
    for failures in range(1, MAX_SILENT_POLLS + 1):
        await context.pace.turn()
        try:
            progress = await context.vendor.poll(context.http, task_of(context.vendor, row))
        except protocol.UnauthorisedError as error:
            context.engine.stop("unauthorised", error.text, hard=True)
            await context.engine.sleep(0.0)  # ends here
        except (protocol.VendorError, protocol.NotSentError) as error:
            is_unknown = isinstance(error, protocol.UnknownTaskError)
            if is_unknown and failures >= MAX_ABSENT and named_by_hand(row) is not None:
                return Progress("unknown", "no answer", reason=error.text, is_absent=True)
            if (error.retry_after_s or 0.0) > LONGEST_WAIT_S:  # the paid task keeps its state
                wait = requested_wait(error.retry_after_s or 0.0)
                context.engine.stop("asked_to_wait", f"{error.text}; {wait}", hard=True)
                await context.engine.sleep(0.0)  # ends here
            seconds = min(max(backoff_s(failures), error.retry_after_s or 0.0), MAX_PAUSE_S)
            context.engine.report(f"polling: {error.text}; again in {seconds:.0f} s")
            await context.engine.sleep(seconds)
        else:
            context.num_polls_answered += 1
            return progress
    if context.num_polls_answered > num_before:
        return Progress("unknown", "no answer")
    context.engine.stop("no_connection", "the vendor does not answer polls", hard=True)
    raise asyncio.CancelledError


async def record_end(
    context: RunContext, row: OrderRow, progress: Progress, *, by_hand: bool = False
) -> OrderRow:
    """Write the vendor's end of a task and its cost; a second call changes nothing.

    `by_hand`: for a stalled task, which has no owner.
    """
    state = STATE_OF[progress.state]
    if row.state == state or not may_follow(row.state, state):
        return row
    usage = progress.usage
    price, is_delivered = context.teacher.access.price, state == "succeeded"
    spent = budget.cost(price, usage, row.reserved, delivered=is_delivered)
    facts = json.loads(row.facts or "{}") | {
        "usage": None
        if usage is None
        else {"usd": usage.usd, "tokens": usage.tokens, "seconds": usage.seconds},
        "num_videos": len(progress.videos),
        "ran_model": progress.model,
        "ended_at": time.time(),
    }
    if is_delivered:
        facts.pop(ANSWER, None)
    row = await context.move(
        row,
        state,
        vendor_state=progress.vendor_state,
        reason=progress.reason,
        returned_seed=progress.seed,
        reserved=0,
        spent=spent,
        facts=json.dumps(facts),
        by_hand=by_hand,
    )
    failpoint("harvest.settled")
    return row


async def _note(
    context: RunContext, row: OrderRow, state: OrderState, progress: Progress
) -> OrderRow:
    """Write an open task's state if the vendor's word has changed, never backwards.

    An answer in which no known state is stays with the order.
    """
    vendor_state = progress.vendor_state
    if row.vendor_state == vendor_state or (
        state != row.state and not may_follow(row.state, state)
    ):
        return row
    if progress.answer is None:
        return await context.move(row, state, vendor_state=vendor_state)
    facts = json.dumps(json.loads(row.facts or "{}") | {ANSWER: progress.answer})
    return await context.move(row, state, vendor_state=vendor_state, facts=facts)
