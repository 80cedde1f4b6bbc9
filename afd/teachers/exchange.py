"""One HTTP request to a vendor and what its outcome means: was something created, ask again, stop.

The table for a create (the POST that costs):

    no connection                       NotSentError          nothing left this machine
    429, 425, 503                       NothingCreatedError   the vendor says so
    401, 403                            UnauthorisedError
    402                                 OutOfCreditError
    other 4xx, 301, 307, 308            RejectedError
    408, 302, 303, other 5xx, an answer lost or unreadable, a 2xx without an id: AmbiguousError

A poll or a listing creates nothing: all of it is VendorError, but for the key.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from afd.teachers import checked
from afd.teachers.remote import (
    AmbiguousError,
    NothingCreatedError,
    NotSentError,
    OutOfCreditError,
    RejectedError,
    RemoteError,
    UnauthorisedError,
    UnknownTaskError,
    VendorError,
)
from afd.teachers.unpacking import Unpacker, UnpackError

MAX_EXCHANGE_S = 300.0  # of one request with its answer, however slowly it drips in
MAX_ANSWER_BYTES = 4 << 20  # a listing of 100 predictions with their logs is about 1 MB
NUM_RECENT = 8  # keys whose quotations are hidden: of a few providers, the present and earlier ones
# What httpx raises before a byte of the request is on its way.
UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
    httpx.LocalProtocolError,
)


@dataclass(frozen=True)
class Answer:
    """A vendor's reply, read up to a cap; `body` is None where it is no JSON."""

    status: int
    body: Any
    retry_after_s: float | None
    secrets: tuple[str, ...]  # what must not be quoted from it
    is_whole: bool

    def get(self, *path: str | int) -> Any:
        """A value inside the body, or None."""
        return checked.dig(self.body, *path)

    def clean(self, value: Any, limit: int = checked.MAX_TEXT) -> str:
        """A text of this answer that may be shown."""
        return checked.clean(value, self.secrets, limit)

    def id(self, *path: str | int) -> str:
        """The id of a task that this answer says it created.

        Errors: AmbiguousError where there is none that can be used: it may have been created.
        """
        found = checked.identifier(self.get(*path))
        if self.status // 100 != 2 or found is None or "***" in found:
            shown = self.clean(self.get(*path), 60) if self.body is not None else "no JSON"
            raise AmbiguousError(
                f"the vendor answered {self.status}, but with no usable task id ({shown}); "
                "the task may exist"
            )
        return found

    @property
    def reason(self) -> str:
        """The vendor's own words for what is wrong, wherever providers keep them."""
        places = (
            ("error", "message"),
            ("error",),
            ("detail",),
            ("detail", 0, "msg"),
            ("message",),
            ("title",),
        )
        said = [self.get(*place) for place in places]
        words = next((value for value in said if checked.text(value)), None)
        code = checked.text(self.get("error", "code")) or checked.text(self.get("error", "status"))
        shown = self.clean(words) if words is not None else "no reason given"
        return f"{self.clean(code, 60)}: {shown}" if code else shown


def refusal(answer: Answer) -> RemoteError:
    """Return the error of an answer to a create that is not 2xx (the module's table)."""
    said = sentence(answer)
    match answer.status:
        case 401 | 403:
            return UnauthorisedError(said)
        case 402:
            return OutOfCreditError(said)
        case 425 | 429 | 503:
            return NothingCreatedError(said, answer.retry_after_s)
        case 301 | 307 | 308:
            return RejectedError(f"{said}; access.base_url must be the address it redirects to")
        case status if 400 <= status < 500 and status != 408:
            return RejectedError(said)
        case _:
            return AmbiguousError(f"{said}; the task may exist")


async def create(
    http: httpx.AsyncClient,
    target: str,
    headers: dict[str, str],
    refused: Callable[[Answer], RemoteError] = refusal,
    **content: Any,
) -> Answer:
    """One POST that may cost, and its 2xx answer. `content` is httpx's: json=, or files=.

    `refused` names the error of any other answer, where a provider has words of its own.
    Errors: see the module's table. Never sends twice.
    """
    try:
        request = http.build_request("POST", target, headers=_plain(headers), **content)
        request.read()  # a form is one write to the socket, else three a field
    except (
        ValueError,
        TypeError,
        httpx.InvalidURL,
    ):  # NaN, half a surrogate pair; its text quotes the value
        raise RejectedError(
            "not sent: the prompt or a parameter cannot be written in UTF-8 or JSON"
        ) from None
    try:
        answer = await _exchange(http, request, headers)
    except UNSENT as error:
        raise NotSentError(f"not sent: {_what(error)}") from None
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, UnpackError) as error:
        raise AmbiguousError(
            f"the request was sent and its answer lost ({_what(error)}); the task may exist"
        ) from None
    if answer.status // 100 == 2:
        return answer
    raise refused(answer)


async def read(
    http: httpx.AsyncClient,
    target: str,
    headers: dict[str, str],
    params: dict[str, str] | None = None,
    accepted: tuple[int, ...] = (),
) -> Answer:
    """One GET; a 2xx answer, or one of the `accepted` states.

    Errors: NotSentError, VendorError (ask again later; UnknownTaskError: in vain), and
    UnauthorisedError.
    """
    try:
        request = http.build_request("GET", target, headers=_plain(headers), params=params)
        answer = await _exchange(http, request, headers)
    except UNSENT as error:
        raise NotSentError(f"not sent: {_what(error)}") from None
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, UnpackError) as error:
        raise VendorError(f"no answer: {_what(error)}") from None
    if answer.status in accepted:
        return answer
    if answer.status in (401, 403):
        raise UnauthorisedError(sentence(answer))
    if answer.status // 100 == 4 and answer.status not in (408, 425, 429):
        raise UnknownTaskError(sentence(answer))
    if answer.status // 100 != 2 or answer.body is None:
        raise VendorError(sentence(answer), answer.retry_after_s)
    return answer


def bearer(key: str) -> dict[str, str]:
    """The header that most vendors want."""
    return {"Authorization": f"Bearer {key}"}


_recent: deque[str] = deque(maxlen=NUM_RECENT)


def secrets_to_hide(headers: dict[str, str]) -> tuple[str, ...]:
    """Return the keys to hide in the answer to a request with these headers.

    Besides the request's own key, without its scheme, these are keys of earlier requests: a vendor
    may quote one, and it may still be valid.
    """
    parts = (part for value in headers.values() for part in value.split())
    _recent.extend(part for part in parts if len(part) > 6 and part not in _recent)
    return tuple(_recent)


def _plain(headers: dict[str, str]) -> dict[str, str]:
    return {"Accept": "application/json", "Accept-Encoding": "identity"} | headers


async def _exchange(
    http: httpx.AsyncClient, request: httpx.Request, headers: dict[str, str]
) -> Answer:
    """Send once, follow nothing, read at most MAX_ANSWER_BYTES; hide keys in the answer."""
    secrets = secrets_to_hide(headers)
    async with asyncio.timeout(MAX_EXCHANGE_S):
        reply = await http.send(request, stream=True, follow_redirects=False)
        try:
            received, is_whole = await _received(reply)
        finally:
            await reply.aclose()
    try:
        body = checked.parse(received, secrets) if is_whole else None
    except ValueError:
        body = None
    return Answer(reply.status_code, body, checked.pause_s(reply.headers), secrets, is_whole)


async def _received(reply: httpx.Response) -> tuple[bytes, bool]:
    """The body up to the cap, and whether that was all of it."""
    received = bytearray()
    unpacker = Unpacker(reply.headers.get("content-encoding", ""))
    async for chunk in reply.aiter_raw():
        for piece in unpacker.unpack(chunk):
            received += piece
            if len(received) > MAX_ANSWER_BYTES:
                return b"", False
    unpacker.finish()
    return bytes(received), True


def sentence(answer: Answer) -> str:
    """Return the vendor's answer as a sentence for a person."""
    if not answer.is_whole:
        return f"the vendor answered {answer.status} with more than {MAX_ANSWER_BYTES >> 20} MB"
    if answer.body is None:
        return f"the vendor answered {answer.status} with something that is no JSON"
    return f"the vendor answered {answer.status}: {answer.reason}"


def _what(error: Exception) -> str:
    """The kind of a transport error; its text may quote the URL or a header."""
    return type(error).__name__
