"""Kling: answers HTTP 200 with a code of its own, and wants a signed token.

    POST {base}/videos/text2video -> data.task_id     GET .../{id}     GET ...?pageNum=&pageSize=
    base: https://api-singapore.klingai.com/v1

Models that are named by model_name (up to 3.0 Omni); those named in the path (3.0-turbo, 4.0) speak
another API. The worked example of docs/teachers.md. The order's key goes along as external_task_id,
which Kling keeps unique: a lost answer is found again for certain. Takes no seed.
Source: Kling AI developer documentation, "Text to video" and "Error codes" (November 2026).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import httpx

from afd.teachers.vendors import exchange, responses, sanitise
from afd.teachers.vendors.exchange import Answer
from afd.teachers.vendors.keys import read_key, signed_token
from afd.teachers.vendors.protocol import (
    AmbiguousError,
    NothingCreatedError,
    Order,
    OutOfCreditError,
    Progress,
    RefusedInputError,
    RejectedError,
    RemoteError,
    State,
    Task,
    UnauthorisedError,
    UnknownTaskError,
    Usage,
    VendorError,
)

STATES: dict[str, State] = {"submitted": "queued", "processing": "running", "failed": "failed"}
PAGE, NUM_PAGES = 500, 20


@dataclass(frozen=True)
class Kling:
    """Text to video."""

    base_url: str
    key_variable: str  # of ACCESS:SECRET, or of one plain key
    name: str = "kling"

    def auth_headers(self) -> dict[str, str]:
        """Return headers with a token, valid for 30 minutes. Errors: UnauthorisedError."""
        key = read_key(self.key_variable)
        return exchange.bearer(signed_token(self.key_variable) if ":" in key else key)

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Create a task; mode and aspect ratio come from the order's parameters."""
        body: dict[str, Any] = {}
        if order.duration_s is not None:
            body["duration"] = f"{order.duration_s:g}"
        body |= order.parameters
        body |= {
            "model_name": order.model,
            "prompt": order.prompt,
            "external_task_id": order.key[:64],
        }
        answer = await exchange.create(
            http, self._tasks, self.auth_headers(), refused=_refused, json=body
        )
        if answer.get("code") != 0:
            raise _refused(answer)
        return Task(answer.id("data", "task_id"))

    def named(self, task_id: str, model: str) -> Task:
        """Return the task of an id, which is all that a poll needs."""
        return Task(task_id)

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """Poll one task."""
        target = f"{self._tasks}/{task.id}"
        answer = await responses.read_task(
            http, target, self.auth_headers(), task, STATES,
            ("data", "task_id"), ("data", "task_status"),
        )  # fmt: skip
        if isinstance(answer, Progress):
            return answer
        if answer.get("code") == 1203:
            return responses.absent(answer)
        if answer.status // 100 == 2:
            _check_code(answer)
        word = answer.get("data", "task_status")
        if word in ("succeed", "succeeded"):
            place = answer.get("data", "task_result", "videos")
            videos = sanitise.items(place)
            lengths = [sanitise.amount(sanitise.dig(video, "duration"), 1e5) for video in videos]
            seconds = sum(length for length in lengths if length is not None)
            return responses.succeeded(
                answer,
                word,
                None if place is None else [sanitise.dig(video, "url") for video in videos],
                usage=Usage(seconds=seconds) if seconds else None,
            )
        state = responses.state_of(STATES, word)
        message = sanitise.text(answer.get("data", "task_status_msg")) or ""
        if state == "failed" and "risk control" in message.lower():
            state = "refused_output"
        return responses.stands(answer, state, word, message or None)

    async def find(
        self,
        http: httpx.AsyncClient,
        order: Order,
        taken: Collection[str] = (),
        since_s: float | None = None,
    ) -> Task | None:
        """Find the task by the order's own key, which is unique."""
        for page in range(1, NUM_PAGES + 1):
            params = {"pageNum": str(page), "pageSize": str(PAGE)}
            answer = await exchange.read(http, self._tasks, self.auth_headers(), params)
            _check_code(answer)
            listed = sanitise.items(answer.get("data"))
            for item in listed:
                task_id = sanitise.identifier(sanitise.dig(item, "task_id"))
                key = sanitise.dig(item, "task_info", "external_task_id")
                if key == order.key[:64] and task_id is not None:
                    return Task(task_id)
            if len(listed) < PAGE:
                return None
        raise VendorError(f"not among the newest {PAGE * NUM_PAGES} tasks that Kling lists")

    @property
    def _tasks(self) -> str:
        return f"{self.base_url}/videos/text2video"


def _check_code(answer: Answer) -> None:
    code = answer.get("code")
    if code != 0:
        kind = CODES.get(code) if isinstance(code, int) else None
        if code in (*range(1000, 1005), 1304):
            raise UnauthorisedError(_sentence(answer))
        raise (UnknownTaskError if kind is RejectedError else VendorError)(_sentence(answer))


# Kling's own codes: its documentation's table. 1203 (no such task) is of polls alone; 1304 is the
# account's list of IP addresses: no retry helps.
CODES: dict[int, type[RemoteError]] = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004, 1103, 1304), UnauthorisedError),
    **dict.fromkeys((1100, 1101, 1102), OutOfCreditError),
    **dict.fromkeys((1200, 1201, 1202, 1203), RejectedError),
    **dict.fromkeys((1300, 1301), RefusedInputError),
    **dict.fromkeys((1302, 1303, 5001), NothingCreatedError),
}


def _refused(answer: Answer) -> RemoteError:
    """Return the error of Kling's own code, or of the HTTP status without a code."""
    code = answer.get("code")
    if code is None and answer.status // 100 != 2:
        return exchange.refusal(answer)
    kind = CODES.get(code) if isinstance(code, int) else None
    if kind is None:
        return AmbiguousError(f"{_sentence(answer)}; the task may exist")
    return kind(_sentence(answer), answer.retry_after_s)


def _sentence(answer: Answer) -> str:
    code = answer.clean(str(answer.get("code")), 20)
    return f"the vendor answered {answer.status}, code {code}: {answer.reason}"
