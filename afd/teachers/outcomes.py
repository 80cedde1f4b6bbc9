"""What polls come to, in the one vocabulary, whatever the provider's words."""

from dataclasses import replace
from typing import Any

from afd.teachers import checked
from afd.teachers.exchange import Answer
from afd.teachers.remote import Progress, State, Task, UnknownTaskError, Usage, VendorError, Video


def succeeded(
    answer: Answer,
    word: Any,
    urls: list[Any],
    *,
    key_host: str | None = None,
    usage: Usage | None = None,
    seed: Any = None,
    model: Any = None,
) -> Progress:
    """Done: with videos, with none (the vendor's filter ate them), or with nothing usable.

    The key goes with a download only to the host of `key_host`.
    """
    usable = [found for found in map(checked.url, urls[:MAX_VIDEOS]) if found is not None]
    videos = tuple(
        Video(url, key_host is not None and checked.same_origin(url.get_secret_value(), key_host))
        for url in usable
    )
    state: State = "succeeded" if videos else "unknown" if urls else "refused_output"
    reasons = {"unknown": "done, but its video's URL is unusable", "refused_output": NO_VIDEO}
    return Progress(
        state=state,
        vendor_state=answer.clean(word, 40),
        videos=videos,
        usage=usage,
        reason=reasons.get(state),
        seed=checked.seed(seed),
        model=None if model is None else answer.clean(model, 200),
        retry_after_s=answer.retry_after_s,
    )


MAX_VIDEOS = 16  # of one task; one was ordered
CLOCKS_APART_S = 300.0
NO_VIDEO = "done, but with no video: held back by the vendor's filter"


def stands(
    answer: Answer, state: State, word: Any, reason: Any = None, usage: Usage | None = None
) -> Progress:
    """Any other state."""
    return Progress(
        state=state,
        vendor_state=answer.clean(word, 40),
        usage=usage,
        reason=None if reason is None else answer.clean(reason),
        retry_after_s=answer.retry_after_s,
    )


def absent(answer: Answer) -> Progress:
    """The vendor does not know this id (404): it may have forgotten it, or not yet learned it."""
    stood = stands(answer, "unknown", str(answer.status), "the vendor does not know this task")
    return replace(stood, is_absent=True)


def check_id(answer: Answer, task: Task, *path: str | int) -> None:
    """Errors: UnknownTaskError when the answer is about another task."""
    said = answer.get(*path)
    if said is not None and checked.identifier(said) != task.id:
        raise UnknownTaskError(f"the vendor answered about another task: {answer.clean(said, 60)}")


def is_older(item: Any, since_s: float | None) -> bool:
    """Whether a listed task was surely created before `since_s`, whose clock may be another."""
    created = checked.moment(checked.dig(item, "created_at"))
    return created is not None and since_s is not None and created < since_s - CLOCKS_APART_S


def only(found: list[str]) -> Task | None:
    """The one task that fits. Errors: VendorError when there are several."""
    if len(found) > 1:
        raise VendorError(
            f"{len(found)} tasks of the vendor fit: {', '.join(found[:5])}; look at them in its "
            "console and decide with `afd harvest resolve`"
        )
    return Task(found[0]) if found else None
