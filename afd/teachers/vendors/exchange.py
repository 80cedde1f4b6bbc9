"""One HTTP request to a vendor, and the error that each outcome means.

The table for a create (the POST that costs):

    no connection                       NotSentError          nothing left this machine
    429, 425, 503                       NothingCreatedError   nothing was created
    401, 403                            UnauthorisedError
    402; 403, 429 with words of credit  OutOfCreditError
    other 4xx, 301, 307, 308            RejectedError
    408, 302, 303, other 5xx, an answer lost or unreadable, a 2xx without an id: AmbiguousError

A poll or a listing creates nothing: every failure but a wrong key is a VendorError. An account
without credit is no wrong key: its paid tasks go on.
"""

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from afd.teachers.vendors import sanitise
from afd.teachers.vendors.decompress import Unpacker, UnpackError
from afd.teachers.vendors.protocol import (
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

MAX_EXCHANGE_S = 300.0  # of one request with its complete answer
MAX_WHOLE = 2000  # characters of an answer that is kept for a person
MAX_ANSWER_BYTES = 4 << 20  # a listing of 100 predictions with their logs is about 1 MB
NUM_RECENT = 8  # keys to hide: of a few providers, the present and earlier ones
NO_CREDIT = re.compile(
    r"overdue|arrear|set_?limit_?exceeded|insufficient[ _]?(user[ _])?(balance|credit|fund|quota)"
    r"|(exhausted|not enough|out of) (balance|credit|fund)|(balance|credits?) (is |are )?exhausted"
    r"|billing_(hard_)?limit|(quota|credits?)_(exceeded|exhausted)|top up your balance",
    re.I,
)
# Errors of httpx before any byte of the request is sent.
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
    secrets: tuple[str, ...]  # never quoted
    is_whole: bool
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    def get(self, *path: str | int) -> Any:
        """Return a value inside the body, or None."""
        return sanitise.dig(self.body, *path)

    def clean(self, value: Any, limit: int = sanitise.MAX_TEXT) -> str:
        """Return a text of this answer without secrets."""
        return sanitise.clean(value, self.secrets, limit)

    @property
    def whole(self) -> str:
        """The body as JSON without secrets and URLs, for a person who has to decide."""
        text = json.dumps(self.body, ensure_ascii=False)
        return self.clean(text, MAX_WHOLE)

    def id(self, *path: str | int) -> str:
        """Return the id of the task that this answer reports.

        Errors: AmbiguousError without a usable id: a task may have been created.
        """
        found = sanitise.identifier(self.get(*path))
        if self.status // 100 != 2 or found is None or "***" in found:
            found = "no JSON" if self.body is None else self.whole
            raise AmbiguousError(
                f"the vendor answered {self.status}, but with no usable task id; the task may "
                f"exist; its answer: {found}"
            )
        return found

    @property
    def codes(self) -> list[str]:
        """The vendor's words for the error, from the fields that vendors use for them."""
        places = (("error", "code"), ("error", "status"), ("error", "type"), ("code",),
                  ("error_type",), ("detail", 0, "type"))  # fmt: skip
        values = [self.get(*place) for place in places] + [self.headers.get("x-fal-error-type")]
        return [value for value in values if isinstance(value, str)]

    @property
    def reason(self) -> str:
        """The vendor's text of the error, from the fields that vendors use for it."""
        places = (
            ("error", "message"),
            ("error",),
            ("detail",),
            ("detail", 0, "msg"),
            ("message",),
            ("title",),
        )
        values = [self.get(*place) for place in places]
        text = next((value for value in values if sanitise.text(value)), None)
        code = sanitise.text(self.get("error", "code")) or sanitise.text(
            self.get("error", "status")
        )
        reason = self.clean(text) if text is not None else "no reason given"
        return f"{self.clean(code, 60)}: {reason}" if code else reason


def is_out_of_credit(answer: Answer) -> bool:
    """Return True if a refused request is a matter of money: overdue, no balance, own limit."""
    match answer.status:
        case 402:
            return True
        case 400:  # its message may quote the prompt
            texts = answer.codes
        case 403 | 429:
            texts = [*answer.codes, answer.reason]
        case _:
            return False
    return any(NO_CREDIT.search(text) for text in texts)


def refusal(answer: Answer) -> RemoteError:
    """Return the error of a non-2xx answer to a create (the module's table)."""
    text = sentence(answer)
    if is_out_of_credit(answer):
        return OutOfCreditError(text)
    match answer.status:
        case 401 | 403:
            return UnauthorisedError(text)
        case 425 | 429 | 503:
            return NothingCreatedError(text, answer.retry_after_s)
        case 301 | 307 | 308:
            return RejectedError(f"{text}; access.base_url must be the address it redirects to")
        case status if 400 <= status < 500 and status != 408:
            return RejectedError(text)
        case _:
            return AmbiguousError(f"{text}; the task may exist")


async def create(
    http: httpx.AsyncClient,
    target: str,
    headers: dict[str, str],
    refused: Callable[[Answer], RemoteError] = refusal,
    plain_headers: Mapping[str, str] | None = None,
    **content: Any,
) -> Answer:
    """Send one POST that may cost; return its 2xx answer. `content`: httpx's json= or files=.

    `headers` are secrets, which no answer quotes; `plain_headers` are none.

    `refused` returns the error of any other answer, for providers with codes of their own.
    Errors: see the module's table. Never sends twice.
    """
    try:
        all_headers = _plain(headers) | dict(plain_headers or {})
        request = http.build_request("POST", target, headers=all_headers, **content)
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
    is_result: Callable[[Answer], bool] | None = None,
) -> Answer:
    """Send one GET; return a 2xx answer, or one with an `accepted` status.

    Some vendors give the task's own failure as the HTTP status of its poll: an answer that
    `is_result` accepts is returned whatever its status.

    Errors: NotSentError, VendorError (retry later; UnknownTaskError: a retry is useless),
    UnauthorisedError.
    """
    try:
        request = http.build_request("GET", target, headers=_plain(headers), params=params)
        answer = await _exchange(http, request, headers)
    except UNSENT as error:
        raise NotSentError(f"not sent: {_what(error)}") from None
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, UnpackError) as error:
        raise VendorError(f"no answer: {_what(error)}") from None
    if answer.status in accepted or (is_result is not None and is_result(answer)):
        return answer
    if is_out_of_credit(answer):
        raise VendorError(sentence(answer), answer.retry_after_s)
    if answer.status in (401, 403):
        raise UnauthorisedError(sentence(answer))
    if answer.status // 100 == 4 and answer.status not in (408, 425, 429):
        raise UnknownTaskError(sentence(answer))
    if answer.status // 100 != 2 or answer.body is None:
        raise VendorError(sentence(answer), answer.retry_after_s)
    return answer


def bearer(key: str) -> dict[str, str]:
    """Return the Bearer header, which most vendors use."""
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
    """Send once, follow no redirect, read at most MAX_ANSWER_BYTES, hide the keys in the answer."""
    secrets = secrets_to_hide(headers)
    async with asyncio.timeout(MAX_EXCHANGE_S):
        reply = await http.send(request, stream=True, follow_redirects=False)
        try:
            received, is_whole = await _received(reply)
        finally:
            await reply.aclose()
    try:
        body = sanitise.parse(received, secrets) if is_whole else None
    except ValueError:
        body = None
    headers = {name: sanitise.clean(value, secrets) for name, value in reply.headers.items()}
    pause_s = sanitise.pause_s(reply.headers)
    return Answer(reply.status_code, body, pause_s, secrets, is_whole, headers)


async def _received(reply: httpx.Response) -> tuple[bytes, bool]:
    """Return the body up to the cap, and True if it is complete."""
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
    """Return the vendor's answer as a sentence."""
    if not answer.is_whole:
        return f"the vendor answered {answer.status} with more than {MAX_ANSWER_BYTES >> 20} MB"
    if answer.body is None:
        return f"the vendor answered {answer.status} with something that is no JSON"
    return f"the vendor answered {answer.status}: {answer.reason}"


def _what(error: Exception) -> str:
    """Return a transport error's type, since its text may quote the URL or a header."""
    return type(error).__name__
