"""A remote teacher: a paid service that films a prompt some minutes after it was asked.

Three verbs, and nothing else is asked of a vendor: `create` one task, `poll` it, and download what
it shows (afd/harvest/download.py). `create` sends at most one POST and is never retried inside: its
errors say whether a task may exist now, since that alone decides whether asking again pays twice.

Everything that a vendor says is hostile until an adapter has checked it: what leaves an adapter is
one of these types, with cleaned texts, finite numbers and ids that are safe in a path.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn, Protocol

import httpx
from pydantic import SecretStr

State = Literal[
    "queued",
    "running",
    "succeeded",
    "refused_input",
    "refused_output",
    "failed",
    "expired",
    "cancelled",
    "unknown",
]


@dataclass(frozen=True)
class Order:
    """One clip to ask for. `key` is the ledger's name of it; vendors need not see it."""

    key: str
    prompt: str
    seed: int | None  # None: this vendor takes none
    model: str  # exact, dated where the vendor dates its models
    parameters: dict[str, Any]  # passed on as they are, after what follows
    duration_s: float | None
    fps: float | None
    size: tuple[int, int] | None  # px, width and height


class _Unpicklable:
    """Carries a vendor's URL, and those grant access: it must not reach a pickle."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} carries a secret URL and is never pickled")


@dataclass(frozen=True)
class Task(_Unpicklable):
    """What is kept about a created task: enough to poll it from another process."""

    id: str
    poll_url: SecretStr | None = None  # only where the vendor's URL cannot be built from the id


@dataclass(frozen=True)
class Video(_Unpicklable):
    """Where a finished video can be fetched, usually for some hours only."""

    url: SecretStr
    headers_needed: bool  # send auth_headers() with the download, to this host only


@dataclass(frozen=True)
class Usage:
    """What the vendor says a task has used; None: not said. Finite and not negative."""

    usd: float | None = None
    tokens: int | None = None
    seconds: float | None = None  # of video, not of waiting


@dataclass(frozen=True)
class Progress:
    """A task as one poll saw it. `succeeded` always has a video."""

    state: State
    vendor_state: str  # the vendor's own word, cleaned
    videos: tuple[Video, ...] = ()
    usage: Usage | None = None
    reason: str | None = None  # why it was refused or failed, cleaned
    seed: int | None = None  # as returned
    model: str | None = None  # what the vendor says it ran, cleaned
    retry_after_s: float | None = None  # the vendor asks for this pause before the next poll
    is_absent: bool = False  # the vendor does not know this id (404)


class RemoteError(Exception):
    """A vendor, or the way to it, said no. Texts are cleaned and hold no key and no URL."""

    may_have_created: ClassVar[bool] = False

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text, self.retry_after_s)


class NotSentError(RemoteError):
    """The request never reached the vendor (no connection): nothing was created."""


class NothingCreatedError(RemoteError):
    """The vendor says that it did nothing and asks to come back: 429, 503."""


class AmbiguousError(RemoteError):
    """The POST was sent and its answer lost or unreadable: a task may exist and may cost."""

    may_have_created = True


class UnauthorisedError(RemoteError):
    """The key is missing, wrong, or may not do this: no request will do better."""


class OutOfCreditError(RemoteError):
    """The account cannot pay for another task; the paid ones go on."""


class RejectedError(RemoteError):
    """This request is wrong and will stay so (400): final for this order alone."""


class RefusedInputError(RejectedError):
    """Rejected since the vendor will not film this prompt: an outcome, not a mistake."""


class VendorError(RemoteError):
    """A poll or a listing went wrong; nothing is lost, ask again later."""


class UnknownTaskError(VendorError):
    """The vendor says that the poll itself is wrong (a 4xx): it can know no task of this id."""


class RemoteTeacher(Protocol):
    """One vendor, about 100 lines of httpx. Holds no connection and no key."""

    @property
    def name(self) -> str:
        """The provider, as it enters a clip's identity."""
        ...

    @property
    def can_list(self) -> bool:
        """Whether `find` can look for a task whose id was lost."""
        ...

    def auth_headers(self) -> dict[str, str]:
        """Fresh for each call, from the environment variable named in params.

        Errors: UnauthorisedError naming the variable.
        """
        ...

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Ask for one clip: one POST at most. Errors: RemoteError, but no VendorError."""
        ...

    def named(self, task_id: str, model: str) -> Task:
        """A task of which only the id is known: a person read it in the vendor's console."""
        ...

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """How the task stands. Errors: VendorError, UnauthorisedError, NotSentError."""
        ...

    async def find(
        self,
        http: httpx.AsyncClient,
        order: Order,
        taken: Collection[str] = (),
        since_s: float | None = None,
    ) -> Task | None:
        """The task that this order created, when its answer was lost; ids in `taken` are others'.

        `since_s` (seconds since 1970): it was not sent before, so that what the vendor made for
        another store is not taken for it. None: the vendor lists none, which proves nothing: it may
        list late, or forget what was asked. Errors: as `poll`, and VendorError when several fit.
        """
        ...
