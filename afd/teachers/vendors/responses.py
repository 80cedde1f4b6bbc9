"""Results of polls in one vocabulary for all providers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from afd.teachers.vendors import exchange, sanitise
from afd.teachers.vendors.exchange import Answer
from afd.teachers.vendors.protocol import (
    Progress,
    State,
    Task,
    UnknownTaskError,
    Usage,
    VendorError,
    Video,
)


def succeeded(
    answer: Answer,
    word: Any,
    urls: list[Any] | None,
    *,
    key_host: str | None = None,
    usage: Usage | None = None,
    seed: Any = None,
    model: Any = None,
) -> Progress:
    """Return the progress of a finished task: succeeded, refused_output or unknown.

    An empty list means that the vendor's filter held the video back. None (the answer has no place
    for a video that the adapter knows) and no usable URL mean unknown: such a video is paid, and
    is never ordered again by itself.

    The key goes with a download only to the host of `key_host`.
    """
    known = [] if urls is None else urls[:MAX_VIDEOS]
    usable = [found for found in map(sanitise.url, known) if found is not None]
    videos = tuple(
        Video(url, key_host is not None and sanitise.same_origin(url.get_secret_value(), key_host))
        for url in usable
    )
    state: State = "succeeded" if videos else "refused_output" if urls == [] else "unknown"
    no_url = NO_PLACE if urls is None else "done, but its video's URL is unusable"
    reasons = {"unknown": no_url, "refused_output": NO_VIDEO}
    return Progress(
        state=state,
        vendor_state=answer.clean(word, 40),
        videos=videos,
        usage=usage,
        reason=reasons.get(state),
        seed=sanitise.seed(seed),
        model=None if model is None else answer.clean(model, 200),
        retry_after_s=answer.retry_after_s,
        answer=answer.whole if state == "unknown" else None,
    )


MAX_VIDEOS = 16  # of one task; one was ordered
CLOCKS_APART_S = 300.0
NO_VIDEO = "done, but with no video: held back by the vendor's filter"
NO_PLACE = "done, but its answer has an unfamiliar shape: look at the task in the vendor's console"
ENDED: tuple[State, ...] = ("failed", "cancelled", "expired")


def stands(
    answer: Answer, state: State, word: Any, reason: Any = None, usage: Usage | None = None
) -> Progress:
    """Return the progress of any other state."""
    return Progress(
        state=state,
        vendor_state="no state" if word is None else answer.clean(word, 40),
        usage=usage,
        reason=None if reason is None else answer.clean(reason),
        retry_after_s=answer.retry_after_s,
        answer=answer.whole if state == "unknown" else None,
    )


def state_of(states: Mapping[str, State], word: Any) -> State:
    """Return the state of a vendor's word; unknown for a word that the adapter does not know."""
    return states.get(sanitise.text(word) or "", "unknown")


async def read_task(
    http: httpx.AsyncClient,
    target: str,
    headers: dict[str, str],
    task: Task,
    states: Mapping[str, State],
    id_path: tuple[str, ...] = ("id",),
    word_path: tuple[str, ...] = ("status",),
) -> Answer | Progress:
    """Read the vendor's answer about a task; a Progress if the vendor does not find the task.

    An answer that bears the task's id and a word of its end is taken whatever its HTTP status.
    Errors: as `exchange.read`; UnknownTaskError if the answer is about another task.
    """

    def is_end(answer: Answer) -> bool:
        is_ours = sanitise.identifier(answer.get(*id_path)) == task.id
        return is_ours and state_of(states, answer.get(*word_path)) in ENDED

    answer = await exchange.read(http, target, headers, accepted=(404,), is_result=is_end)
    if answer.status == 404 and not is_end(answer):
        return absent(answer)
    check_id(answer, task, *id_path)
    return answer


def absent(answer: Answer, word: Any = None) -> Progress:
    """Return the progress of an id that the vendor does not find, now or any more.

    `word` is the vendor's own, where the status is not 404.
    """
    word = str(answer.status) if word is None else word
    progress = stands(answer, "unknown", word, "the vendor does not know this task")
    return replace(progress, is_absent=True)


def check_id(answer: Answer, task: Task, *path: str | int) -> None:
    """Raise UnknownTaskError if the answer is about another task."""
    found = answer.get(*path)
    if found is not None and sanitise.identifier(found) != task.id:
        raise UnknownTaskError(f"the vendor answered about another task: {answer.clean(found, 60)}")


def is_older(item: Any, since_s: float | None) -> bool:
    """Return True if a listed task is surely older than `since_s`; clocks may differ by 300 s."""
    created = sanitise.moment(sanitise.dig(item, "created_at"))
    return created is not None and since_s is not None and created < since_s - CLOCKS_APART_S


def only(found: list[str]) -> Task | None:
    """Return the one task that fits, or None. Errors: VendorError for several."""
    if len(found) > 1:
        raise VendorError(
            f"{len(found)} tasks of the vendor fit: {', '.join(found[:5])}; look at them in its "
            "console and decide with `afd harvest resolve`"
        )
    return Task(found[0]) if found else None
