"""The POST of one order: its row is on the disk before, the task id right after.

A create is sent again only if surely no task was created. If a task may exist and its id is
unknown, the order is ambiguous and is never sent again without proof.
"""

import asyncio
import time

from pydantic import SecretStr

from afd.failpoints import failpoint
from afd.harvest.context import Counter, RunContext, StopReason
from afd.harvest.ledger import LostOrderError, TaskTakenError
from afd.harvest.order import OrderRow, adapter_order
from afd.harvest.pace import LONGEST_WAIT_S, backoff_s, requested_wait
from afd.harvest.schema import LedgerError
from afd.harvest.states import OrderState, TransitionError
from afd.teachers.vendors import protocol
from afd.teachers.vendors.protocol import Task

MAX_IN_A_ROW: dict[StopReason, int] = {
    "no_connection": 7,  # 1 + 2 + 4 ... seconds: about two minutes
    "busy_vendor": 30,  # at least half an hour of 429 and 503
    "lost_replies": 3,  # each of them may cost
    "rejected": 10,
    "forbidden_host": 3,  # videos of one vendor come from one place
    "quarantined": 10,  # each of them was paid
}
PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # for a full or locked disk: in sum less than ANSWER_S of a stop


class UnwrittenTaskError(LedgerError):
    """The vendor has a paid task that could not be written; only the text has its id."""


async def submit(context: RunContext, row: OrderRow) -> OrderRow:
    """Send the POST of a claimed order; return its row: submitted, planned, ambiguous or ended."""
    order = adapter_order(row.request_id, row.prompt, row.attempt, context.spec)
    failpoint("harvest.before_post")
    try:
        task = await context.vendor.create(context.http, order)
    except protocol.RemoteError as error:
        return await context.move(row, _without_a_task(context, error), reason=error.text)
    failpoint("harvest.after_post")
    counted = context.in_a_row
    context.in_a_row = Counter(forbidden=counted.forbidden, quarantined=counted.quarantined)
    try:
        row = await _write_down(context, row, task)
    except TaskTakenError as error:
        return await context.move(row, "ambiguous", reason=str(error))
    failpoint("harvest.submitted")
    return row


async def _write_down(context: RunContext, row: OrderRow, task: Task) -> OrderRow:
    """Write a new task's id, which only this process has, into its row.

    Raises UnwrittenTaskError if the disk refuses for long, LostOrderError if another process has
    found the task first, TaskTakenError.
    """
    problem: LedgerError | None = None
    for seconds in (*PAUSES_S, 0.0):
        try:
            return await _submitted(context, row, task)
        except LedgerError as error:
            problem = error
            context.engine.report(f"{error}; trying again to write down task {task.id}")
        await asyncio.sleep(seconds)  # also during a stop
    raise UnwrittenTaskError(
        f"{problem}. The vendor has the paid task {task.id} of order {row.key[:12]}, and it could "
        f"not be written down. Once it can: `afd harvest resolve {row.key[:12]} "
        f"--created {task.id}`"
    )


async def _submitted(context: RunContext, row: OrderRow, task: Task) -> OrderRow:
    columns = task_columns(task) | {"submitted_at": time.time(), "reason": None}
    try:
        return await context.move(row, "submitted", **columns)
    except LostOrderError:  # another process took this one for dead; the task id is known here
        try:
            return await context.move(row, "submitted", by_hand=True, **columns)
        except TransitionError as error:
            raise LostOrderError(f"{error}; the vendor's answer was task {task.id}") from None


def _without_a_task(context: RunContext, error: protocol.RemoteError) -> OrderState:
    """Return the state of an order whose POST gave no task; stop the run if the error needs it."""
    counted = context.in_a_row
    state: OrderState = "planned"
    match error:
        case protocol.UnauthorisedError():
            context.engine.stop("unauthorised", error.text, hard=True)
        case protocol.OutOfCreditError():
            context.engine.stop("out_of_credit", error.text)
        case protocol.NotSentError():
            counted.not_sent += not context.pace.is_paused  # sixteen at once are one failure
            _again(context, counted.not_sent, "no_connection", error)
        case protocol.NothingCreatedError():
            counted.nothing_created += not context.pace.is_paused
            _again(context, counted.nothing_created, "busy_vendor", error)
        case protocol.RefusedInputError():
            counted.rejected, state = 0, "refused_input"
        case protocol.RejectedError():
            counted.rejected, state = counted.rejected + 1, "failed_final"
            if counted.rejected >= MAX_IN_A_ROW["rejected"]:
                context.engine.stop("rejected", error.text)
        case _:  # AmbiguousError, and any error that does not exclude a task
            counted.ambiguous, state = counted.ambiguous + 1, "ambiguous"
            if counted.ambiguous >= MAX_IN_A_ROW["lost_replies"]:
                context.engine.stop("lost_replies", error.text)
    return state


def task_columns(task: Task) -> dict[str, str | None]:
    """Return a task as columns of its row."""
    url = task.poll_url
    return {"task_id": task.id, "poll_url": url.get_secret_value() if url else None}


def task_of(vendor: protocol.RemoteTeacher, row: OrderRow) -> Task:
    """Return a row's task; the adapter builds it if a person gave the id."""
    if row.task_id is None:
        raise ValueError(f"order {row.key[:12]} is {row.state} without a task")
    if row.poll_url:
        return Task(row.task_id, SecretStr(row.poll_url))
    return vendor.named(row.task_id, row.model)


def _again(
    context: RunContext, failures: int, reason: StopReason, error: protocol.RemoteError
) -> None:
    """Pause before the next create, which is safe.

    Stop the run after too many failures, or where the vendor asks for a longer wait than a run has.
    """
    if (error.retry_after_s or 0.0) > LONGEST_WAIT_S:
        wait = requested_wait(error.retry_after_s or 0.0)
        context.engine.stop("asked_to_wait", f"{error.text}: nothing was created; {wait}")
        return
    if failures >= MAX_IN_A_ROW[reason]:
        context.engine.stop(reason, error.text)
        return
    pause_s = error.retry_after_s
    # At least the own backoff: the limit of `busy_vendor` assumes half an hour.
    seconds = context.pace.pause(max(pause_s or 0.0, backoff_s(failures)))
    pause_text = "" if pause_s is None else f" (asked for {pause_s:.0f} s)"
    context.engine.report(
        f"{error.text}: nothing was created, next try in {seconds:.0f} s{pause_text}"
    )
