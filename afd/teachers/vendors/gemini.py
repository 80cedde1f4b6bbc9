"""Google's Gemini API: background interactions that answer with a video.

    POST {base}/interactions {background: true, response_format: [video]} -> id
    GET {base}/interactions/{id} -> status, steps[].content[].uri
    base: https://generativelanguage.googleapis.com/v1beta

In place of Veo's operations, which this API has no more. Takes no seed. Billed by tokens; a film
wants the key with its download. A key that begins with `ya29.` is an OAuth token and goes as a
Bearer. No listing.
Source: requests and typed models of google-genai 3.6.1, ai.google.dev's changelog (November 2026).
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
    "queued": "queued",
    "in_progress": "running",
    "failed": "failed",
    "incomplete": "failed",
    "budget_exceeded": "failed",
    "cancelled": "cancelled",
}
REFUSED = re.compile(r"usage guidelines|responsible ai|safety|sensitive|violat|prohibited", re.I)


@dataclass(frozen=True)
class Gemini:
    """A video model by API key or OAuth token."""

    base_url: str
    key_variable: str
    name: str = "gemini"

    def auth_headers(self) -> dict[str, str]:
        """Return the headers with the key. Errors: UnauthorisedError."""
        key = read_key(self.key_variable)
        return exchange.bearer(key) if key.startswith("ya29.") else {"x-goog-api-key": key}

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Create an interaction; aspect_ratio and resolution come from the order's parameters."""
        video: dict[str, Any] = {}
        if order.duration_s is not None:
            video["duration"] = f"{order.duration_s:g}s"
        video |= order.parameters
        video |= {"type": "video", "delivery": "uri"}  # inline it may be longer than any answer
        body = {
            "model": order.model,
            "input": order.prompt,
            "background": True,
            "response_format": [video],
        }
        answer = await exchange.create(
            http, f"{self.base_url}/interactions", self.auth_headers(), refused=_refused, json=body
        )
        return Task(answer.id("id"))

    def named(self, task_id: str, model: str) -> Task:
        """Return the task of an id, which is all that a poll needs."""
        return Task(task_id)

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """Poll one interaction."""
        target = f"{self.base_url}/interactions/{task.id}"
        answer = await responses.read_task(http, target, self.auth_headers(), task, STATES)
        if isinstance(answer, Progress):
            return answer
        word, usage = answer.get("status"), _usage(answer)
        if word == "completed":
            return responses.succeeded(
                answer,
                word,
                _uris(answer),
                key_host=self.base_url,
                usage=usage,
                model=answer.get("model"),
            )
        state = responses.state_of(STATES, word)
        reason = answer.reason if answer.get("error") is not None else None
        if state == "failed" and reason is not None and REFUSED.search(reason):
            state = "refused_input" if "prompt" in reason else "refused_output"
        return responses.stands(answer, state, word, reason, usage)


def _uris(answer: Answer) -> list[Any] | None:
    """Return the URIs of the videos in all steps; [] if no step has one."""
    if not isinstance(answer.get("steps"), list):
        return None
    steps = sanitise.items(answer.get("steps"))
    parts = [part for step in steps for part in sanitise.items(sanitise.dig(step, "content"))]
    videos = [part for part in parts if sanitise.dig(part, "type") == "video"]
    if not videos and sanitise.holds_url(steps):
        return None
    return [sanitise.dig(video, "uri") for video in videos]


def _usage(answer: Answer) -> Usage | None:
    places = ("total_output_tokens", "total_tokens")
    counts = [sanitise.count(answer.get("usage", place)) for place in places]
    tokens = next((number for number in counts if number is not None), None)
    return None if tokens is None else Usage(tokens=tokens)


def _refused(answer: Answer) -> RemoteError:
    if answer.status == 400 and REFUSED.search(answer.reason):
        return RefusedInputError(answer.reason)
    return exchange.refusal(answer)
