"""OpenRouter: one key for Seedance, Wan, Veo and others; its bill is in USD.

    POST {base}/videos -> id (202)    GET {base}/videos/{id}    GET .../{id}/content?index=0
    base: https://openrouter.ai/api/v1

A JSON body, `duration` in whole seconds. The film is at `unsigned_urls` with the key, at `urls`
without. usage.cost is the bill; with a provider key of one's own (is_byok) it is a fee alone and is
not booked. No listing.
Source: openrouter.ai/docs/api/api-reference/videos and the SDK openrouter 1.3 (November 2026).
"""

import re
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
)

STATES: dict[str, State] = {
    "pending": "queued",
    "in_progress": "running",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}
REFUSED = re.compile(r"moderat|flagged|content polic|safety|sensitive|prohibited|copyright", re.I)
REFUSED_INPUT = re.compile(r"\b(input|prompt)\b", re.I)


@dataclass(frozen=True)
class OpenRouter:
    """Any video model of OpenRouter."""

    base_url: str
    key_variable: str
    name: str = "openrouter"

    def auth_headers(self) -> dict[str, str]:
        """Return the headers with the key. Errors: UnauthorisedError."""
        return exchange.bearer(read_key(self.key_variable))

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Create a job; resolution and aspect_ratio come from the order's parameters."""
        body: dict[str, Any] = {}
        if order.duration_s is not None:
            body["duration"] = sanitise.whole_if_whole(order.duration_s)
        body |= order.parameters
        if order.seed is not None:
            body["seed"] = order.seed % 2**31
        body |= {"model": order.model, "prompt": order.prompt}
        answer = await exchange.create(
            http, f"{self.base_url}/videos", self.auth_headers(), refused=_refused, json=body
        )
        return Task(answer.id("id"))

    def named(self, task_id: str, model: str) -> Task:
        """Return the task of an id, which is all that a poll needs."""
        return Task(task_id)

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """Poll one job."""
        target = f"{self.base_url}/videos/{task.id}"
        answer = await responses.read_task(http, target, self.auth_headers(), task, STATES)
        if isinstance(answer, Progress):
            return answer
        word, usage = answer.get("status"), _usage(answer)
        if word == "completed":
            urls = _urls(answer, f"{target}/content?index=0")
            return responses.succeeded(answer, word, urls, key_host=self.base_url, usage=usage)
        state = responses.state_of(STATES, word)
        reason = answer.reason if answer.get("error") is not None else None
        if state == "failed" and reason is not None and REFUSED.search(reason):
            state = "refused_input" if REFUSED_INPUT.search(reason) else "refused_output"
        return responses.stands(answer, state, word, reason, usage)


def _urls(answer: Answer, content: str) -> list[Any]:
    """Return the film's URLs; both places are optional, and /content is the film as well."""
    places = [answer.get("unsigned_urls"), answer.get("urls")]
    if all(place is None for place in places):
        return [content]
    return [url for place in places for url in sanitise.items(place)]


def _usage(answer: Answer) -> Usage | None:
    usd = sanitise.amount(answer.get("usage", "cost"))
    return None if usd is None or answer.get("usage", "is_byok") is True else Usage(usd=usd)


def _refused(answer: Answer) -> RemoteError:
    if answer.status in (400, 403) and REFUSED.search(answer.reason):
        return RefusedInputError(answer.reason)
    return exchange.refusal(answer)
