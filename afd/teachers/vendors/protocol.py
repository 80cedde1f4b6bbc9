"""Protocol of a remote teacher: a paid service that makes a video of a prompt within minutes.

A vendor needs three verbs: `create` one task, `poll` it, and download its video
(afd/harvest/download.py). `create` sends at most one POST and is never retried inside: its errors
state if a task may exist now, which decides if a second create pays twice.

All input from a vendor is hostile until an adapter has checked it: an adapter returns only these
types, with cleaned texts, finite numbers and ids that are safe in a path.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn, Protocol, runtime_checkable

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
    """One clip to create. `key` is its key in the ledger; most vendors do not get it."""

    key: str
    prompt: str
    seed: int | None  # None: this vendor takes none
    model: str  # exact, dated where the vendor dates its models
    parameters: dict[str, Any]  # passed on as they are, after what follows
    duration_s: float | None
    fps: float | None
    size: tuple[int, int] | None  # px, width and height


class _Unpicklable:
    """Base of types with a vendor's URL, which grants access and must not be pickled."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} carries a secret URL and is never pickled")


@dataclass(frozen=True)
class Task(_Unpicklable):
    """A created task, with all data that another process needs to poll it."""

    id: str
    poll_url: SecretStr | None = None  # only where the vendor's URL cannot be built from the id


@dataclass(frozen=True)
class Video(_Unpicklable):
    """URL of a finished video, usually valid for some hours."""

    url: SecretStr
    headers_needed: bool  # send auth_headers() with the download, to this host only


@dataclass(frozen=True)
class Usage:
    """Usage of a task as the vendor reports it; None if not reported. Finite and >= 0."""

    usd: float | None = None
    tokens: int | None = None
    seconds: float | None = None  # of video, not of waiting


@dataclass(frozen=True)
class Progress:
    """State of a task at one poll. `succeeded` always has a video."""

    state: State
    vendor_state: str  # the vendor's own word, cleaned
    videos: tuple[Video, ...] = ()
    usage: Usage | None = None
    reason: str | None = None  # why it was refused or failed, cleaned
    seed: int | None = None  # as returned
    model: str | None = None  # what the vendor says it ran, cleaned
    retry_after_s: float | None = None  # the vendor asks for this pause before the next poll
    is_absent: bool = False  # the vendor does not know this id (404)
    answer: str | None = None  # as it came, cleaned, where no known state is in it


class RemoteError(Exception):
    """Failure of a vendor or of the network. Texts are cleaned and hold no key and no URL."""

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
    """The vendor did nothing and requests a later retry: 429, 503."""


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
    """The vendor refuses this prompt: an outcome, not a fault."""


class VendorError(RemoteError):
    """A poll or a listing failed; nothing is lost, retry later."""


class UnknownTaskError(VendorError):
    """The vendor rejects the poll itself (a 4xx): it has no task of this id."""


class RemoteTeacher(Protocol):
    """One vendor, about 100 lines of httpx. Holds no connection and no key."""

    @property
    def name(self) -> str:
        """The provider, as it enters a clip's identity."""
        ...

    def auth_headers(self) -> dict[str, str]:
        """Return headers for one call, from the environment variable named in params.

        Errors: UnauthorisedError naming the variable.
        """
        ...

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Create one task with one POST at most. Errors: RemoteError, but no VendorError."""
        ...

    def named(self, task_id: str, model: str) -> Task:
        """Return the task of an id that a person read in the vendor's console."""
        ...

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """Return the task's state. Errors: VendorError, UnauthorisedError, NotSentError."""
        ...


@runtime_checkable
class ListingTeacher(RemoteTeacher, Protocol):
    """A vendor whose listing can find a task whose id was lost."""

    async def find(
        self,
        http: httpx.AsyncClient,
        order: Order,
        taken: Collection[str] = (),
        since_s: float | None = None,
    ) -> Task | None:
        """Return the task of an order whose answer was lost; ids in `taken` belong to others.

        `since_s` (seconds since 1970): the order was not sent before, which excludes tasks of other
        stores. None: the vendor lists no such task, which is no proof: listings may be late or
        incomplete. Errors: as `poll`, and VendorError if several tasks fit.
        """
        ...
