"""Volcengine Ark and BytePlus ModelArk: content generation tasks (Seedance).

    POST {base}/contents/generations/tasks -> id    GET .../tasks/{id}    GET .../tasks?page_num=
    base: https://ark.cn-beijing.volces.com/api/v3, https://ark.ap-southeast.bytepluses.com/api/v3

Model ids are dated and differ by region. Videos are kept for 24 hours; billed by
usage.completion_tokens; a refusal is an error code. Listings show seeds but no prompts.
Source: Ark API reference "Video generation", docs 82379/1520757 and 1521309 (November 2026).
"""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any

import httpx

from afd.teachers.vendors import exchange, responses, sanitise
from afd.teachers.vendors.exchange import Answer
from afd.teachers.vendors.keys import read_key
from afd.teachers.vendors.protocol import (
    Order,
    Progress,
    RefusedInputError,
    RemoteError,
    State,
    Task,
    Usage,
    VendorError,
)

STATES: dict[str, State] = {
    "queued": "queued",
    "running": "running",
    "cancelled": "cancelled",
    "expired": "expired",
    "failed": "failed",
}
PAGE, NUM_PAGES = 100, 20


@dataclass(frozen=True)
class Ark:
    """Seedance models on Ark."""

    base_url: str
    key_variable: str
    name: str = "ark"

    def auth_headers(self) -> dict[str, str]:
        """Return the headers with the key. Errors: UnauthorisedError."""
        return exchange.bearer(read_key(self.key_variable))

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Create a task; resolution and ratio come from the order's parameters."""
        body: dict[str, Any] = {}
        if order.duration_s is not None:
            body["duration"] = sanitise.whole_if_whole(order.duration_s)
        body |= order.parameters
        if order.seed is not None:
            body["seed"] = order.seed % 2**32  # the range that Ark takes: [-1, 2^32 - 1]
        body |= {"model": order.model, "content": [{"type": "text", "text": order.prompt}]}
        answer = await exchange.create(
            http, self._tasks, self.auth_headers(), refused=_refused, json=body
        )
        return Task(answer.id("id"))

    def named(self, task_id: str, model: str) -> Task:
        """Return the task of an id, which is all that a poll needs."""
        return Task(task_id)

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """Poll one task."""
        target = f"{self._tasks}/{task.id}"
        answer = await responses.read_task(http, target, self.auth_headers(), task, STATES)
        if isinstance(answer, Progress):
            return answer
        word = answer.get("status")
        tokens = sanitise.count(answer.get("usage", "completion_tokens"))
        usage = None if tokens is None else Usage(tokens=tokens)
        if word == "succeeded":
            seed, model = answer.get("seed"), answer.get("model")
            return responses.succeeded(
                answer, word, _urls(answer), usage=usage, seed=seed, model=model
            )
        state = responses.state_of(STATES, word)
        code = sanitise.text(answer.get("error", "code")) or ""
        if state == "failed" and _is_refusal(code):
            state = "refused_output" if code.startswith("Output") else "refused_input"
        reason = answer.reason if answer.get("error") is not None else None
        return responses.stands(answer, state, word, reason, usage)

    async def find(
        self,
        http: httpx.AsyncClient,
        order: Order,
        taken: Collection[str] = (),
        since_s: float | None = None,
    ) -> Task | None:
        """Find the task by exact model and seed: the listing has no prompts."""
        if order.seed is None:
            raise VendorError("Ark lists tasks without their prompts, and this one has no seed")
        found: list[str] = []
        async for item in self._newest(http):
            if responses.is_older(item, since_s):
                break
            task_id = sanitise.identifier(sanitise.dig(item, "id"))
            is_ours = (
                # A task of an endpoint (ep-...) is listed under its model's name.
                (sanitise.dig(item, "model") == order.model or order.model.startswith("ep-"))
                and sanitise.dig(item, "seed") == order.seed % 2**32
            )
            if is_ours and task_id is not None and task_id not in taken:
                found.append(task_id)
        return responses.only(found)

    async def _newest(self, http: httpx.AsyncClient) -> AsyncIterator[Any]:
        """Yield the listed tasks. Errors: as `read`; VendorError for an endless listing."""
        for page in range(1, NUM_PAGES + 1):
            params = {"page_num": str(page), "page_size": str(PAGE)}
            answer = await exchange.read(http, self._tasks, self.auth_headers(), params)
            listed = sanitise.items(answer.get("items"))
            for item in listed:
                yield item
            if len(listed) < PAGE:
                return
        raise VendorError(f"not among the newest {PAGE * NUM_PAGES} tasks that Ark lists")

    @property
    def _tasks(self) -> str:
        return f"{self.base_url}/contents/generations/tasks"


def _refused(answer: Answer) -> RemoteError:
    code = sanitise.text(answer.get("error", "code")) or ""
    if answer.status == 400 and _is_refusal(code):
        return RefusedInputError(answer.reason)
    return exchange.refusal(answer)


def _urls(answer: Answer) -> list[Any] | None:
    """Return the film's URL, [] if its place is empty, None if it may be at another place."""
    content = answer.get("content")
    if isinstance(content, dict) and "video_url" in content:
        found = sanitise.dig(content, "video_url")
        return [found] if found else []
    return None if content or sanitise.holds_url(answer.body) else []


def _is_refusal(code: str) -> bool:
    return "SensitiveContentDetected" in code or "RiskDetection" in code
