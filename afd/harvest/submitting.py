"""The POST of one order: its row is on the disk before, its task's id right after.

A create is sent again only where surely nothing was created. What may have been created and cannot
be named is ambiguous, and never sent again without proof.
"""

import asyncio
import time

from pydantic import SecretStr

from afd.failpoints import failpoint
from afd.harvest.desk import Counter, Desk, Why
from afd.harvest.ledger import LostOrderError, TaskTakenError
from afd.harvest.pace import backoff_s
from afd.harvest.rows import Row, adapter_order
from afd.harvest.tables import LedgerError
from afd.harvest.transitions import OrderState, TransitionError
from afd.teachers import remote
from afd.teachers.remote import Task

MAX_IN_A_ROW: dict[Why, int] = {
    "no_connection": 7,  # 1 + 2 + 4 ... seconds: about two minutes
    "busy_vendor": 30,  # at least half an hour of 429 and 503
    "lost_replies": 3,  # each of them may cost
    "rejected": 10,
    "forbidden_host": 3,  # videos of one vendor come from one place
    "quarantined": 10,  # each of them was paid
}
PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # for a disk that is full or held: less than a stop waits


class UnwrittenTaskError(LedgerError):
    """A vendor has a paid task and the ledger does not: its id stands in the text alone."""


async def submit(desk: Desk, row: Row) -> Row:
    """The POST of a claimed order. The row afterwards: submitted, planned, ambiguous or an end."""
    order = adapter_order(row.slot, row.prompt, row.attempt, desk.asked)
    failpoint("harvest.before_post")
    try:
        task = await desk.vendor.create(desk.http, order)
    except remote.RemoteError as error:
        return await desk.move(row, _without_a_task(desk, error), reason=error.text)
    failpoint("harvest.after_post")
    counted = desk.in_a_row
    desk.in_a_row = Counter(forbidden=counted.forbidden, quarantined=counted.quarantined)
    try:
        row = await _write_down(desk, row, task)
    except TaskTakenError as error:
        return await desk.move(row, "ambiguous", reason=str(error))
    failpoint("harvest.submitted")
    return row


async def _write_down(desk: Desk, row: Row, task: Task) -> Row:
    """The row with the task that nobody but this process knows.

    Raises UnwrittenTaskError where the disk refuses for long, LostOrderError where another process
    has found the task first, TaskTakenError.
    """
    problem: LedgerError | None = None
    for seconds in (*PAUSES_S, 0.0):
        try:
            return await _submitted(desk, row, task)
        except LedgerError as error:
            problem = error
            desk.floor.say(f"{error}; trying again to write down task {task.id}")
        await asyncio.sleep(seconds)  # also while everything stops
    raise UnwrittenTaskError(
        f"{problem}. The vendor has the paid task {task.id} of order {row.key[:12]}, and it could "
        f"not be written down. Once it can: `afd harvest resolve {row.key[:12]} "
        f"--created {task.id}`"
    )


async def _submitted(desk: Desk, row: Row, task: Task) -> Row:
    told = named(task) | {"submitted_at": time.time(), "reason": None}
    try:
        return await desk.move(row, "submitted", **told)
    except LostOrderError:  # taken for dead, and the order for ambiguous; its task is known here
        try:
            return await desk.move(row, "submitted", by_hand=True, **told)
        except TransitionError as error:
            raise LostOrderError(f"{error}; the vendor's answer was task {task.id}") from None


def _without_a_task(desk: Desk, error: remote.RemoteError) -> OrderState:
    """What becomes of an order whose POST gave no task, and whether the others go on."""
    counted = desk.in_a_row
    state: OrderState = "planned"
    match error:
        case remote.UnauthorisedError():
            desk.floor.stop("unauthorised", error.text, hard=True)
        case remote.OutOfCreditError():
            desk.floor.stop("out_of_credit", error.text)
        case remote.NotSentError():
            counted.not_sent += not desk.pace.is_paused  # sixteen at once are one failure
            _again(desk, counted.not_sent, "no_connection", error)
        case remote.NothingCreatedError():
            counted.nothing_created += not desk.pace.is_paused
            _again(desk, counted.nothing_created, "busy_vendor", error)
        case remote.RefusedInputError():
            counted.rejected, state = 0, "refused_input"
        case remote.RejectedError():
            counted.rejected, state = counted.rejected + 1, "failed_final"
            if counted.rejected >= MAX_IN_A_ROW["rejected"]:
                desk.floor.stop("rejected", error.text)
        case _:  # AmbiguousError, and whatever does not say that nothing was created
            counted.ambiguous, state = counted.ambiguous + 1, "ambiguous"
            if counted.ambiguous >= MAX_IN_A_ROW["lost_replies"]:
                desk.floor.stop("lost_replies", error.text)
    return state


def named(task: Task) -> dict[str, str | None]:
    """A task as columns of its row."""
    url = task.poll_url
    return {"task_id": task.id, "poll_url": url.get_secret_value() if url else None}


def task_of(vendor: remote.RemoteTeacher, row: Row) -> Task:
    """The inverse of `named`; of a task that a person named, as the vendor's adapter makes it."""
    if row.task_id is None:
        raise ValueError(f"order {row.key[:12]} is {row.state} without a task")
    if row.poll_url:
        return Task(row.task_id, SecretStr(row.poll_url))
    return vendor.named(row.task_id, row.model)


def _again(desk: Desk, failures: int, why: Why, error: remote.RemoteError) -> None:
    """Surely nothing was created: send it again after a pause, a bounded number of times."""
    if failures >= MAX_IN_A_ROW[why]:
        desk.floor.stop(why, error.text)
        return
    asked_for = error.retry_after_s
    # No shorter than without being asked: `busy_vendor` counts on half an hour.
    seconds = desk.pace.pause(max(asked_for or 0.0, backoff_s(failures)))
    said = "" if asked_for is None else f" (asked for {asked_for:.0f} s)"
    desk.floor.say(f"{error.text}: nothing was created, next try in {seconds:.0f} s{said}")
