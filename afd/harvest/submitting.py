"""The POST of one order: its row is on the disk before, its task's id right after.

A create is sent again only where surely nothing was created. What may have been created and cannot
be named is ambiguous, and never sent again without proof.
"""

import time

from pydantic import SecretStr

from afd.failpoints import failpoint
from afd.harvest.desk import Counter, Desk, Why
from afd.harvest.ledger import TaskTakenError
from afd.harvest.pace import backoff_s
from afd.harvest.rows import Row
from afd.harvest.transitions import OrderState
from afd.harvest.wants import order_of
from afd.teachers import remote
from afd.teachers.remote import Task

MAX_IN_A_ROW: dict[Why, int] = {
    "no_connection": 7,  # 1 + 2 + 4 ... seconds: about two minutes
    "busy_vendor": 30,  # at least half an hour of 429 and 503
    "lost_replies": 3,  # each of them may cost
    "rejected": 10,
    "forbidden_host": 3,  # videos of one vendor come from one place
}


async def submit(desk: Desk, row: Row) -> Row:
    """The POST of a claimed order. The row afterwards: submitted, planned, ambiguous or an end."""
    order = order_of(row.slot, row.prompt, row.attempt, desk.asked)
    failpoint("harvest.before_post")
    try:
        task = await desk.vendor.create(desk.http, order)
    except remote.RemoteError as error:
        return await desk.move(row, _without_a_task(desk, error), reason=error.text)
    failpoint("harvest.after_post")
    desk.in_a_row = Counter(forbidden=desk.in_a_row.forbidden)
    try:
        row = await desk.move(
            row, "submitted", **named(task), submitted_at=time.time(), reason=None
        )
    except TaskTakenError as error:
        return await desk.move(row, "ambiguous", reason=str(error))
    failpoint("harvest.submitted")
    return row


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


def task_of(row: Row) -> Task:
    """The inverse of `named`."""
    if row.task_id is None:
        raise ValueError(f"order {row.key[:12]} is {row.state} without a task")
    return Task(row.task_id, SecretStr(row.poll_url) if row.poll_url else None)


def _again(desk: Desk, failures: int, why: Why, error: remote.RemoteError) -> None:
    """Surely nothing was created: send it again after a pause, a bounded number of times."""
    if failures >= MAX_IN_A_ROW[why]:
        desk.floor.stop(why, error.text)
        return
    asked_for = error.retry_after_s
    seconds = desk.pace.pause(backoff_s(failures) if asked_for is None else asked_for)
    said = "" if asked_for is None else f" (asked for {asked_for:.0f} s)"
    desk.floor.say(f"{error.text}: nothing was created, next try in {seconds:.0f} s{said}")
