"""OpenAI-shaped /v1/videos: self-hosted servers (vLLM-Omni, SGLang, FastVideo) and gateways.

    POST {base}/videos -> id    GET {base}/videos/{id}    GET .../{id}/content    GET {base}/videos
    base: http://127.0.0.1:8091/v1 or https://your-gateway/v1; there is no default and no model

The create is a multipart form, which all of them read: `seconds` and `fps` are whole numbers, and
`num_frames` says the rest. vLLM-Omni 0.30 gives a job's failure as the HTTP status of its poll;
servers with cloud storage and Together give the film's URL in place of /content. LiteLLM's ids have
200 to 400 characters. OpenAI's own was shut on 2026-09-24.
Source: docs.vllm.ai/projects/vllm-omni, "Videos API", the servers' route code (November 2026).
"""

import json
import re
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
    "in_progress": "running",
    "failed": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}
REFUSED = re.compile(
    r"moderation|content_?(policy|filter)|sentinel_block|ResponsibleAI|sexual|violence|self.?harm",
    re.I,
)
PAGE, NUM_PAGES = 100, 20


@dataclass(frozen=True)
class OpenAIVideos:
    """Any server of this shape."""

    base_url: str
    key_variable: str
    name: str = "openai_videos"

    def auth_headers(self) -> dict[str, str]:
        """Return the headers with the key, which must be set even for a server without keys.

        Errors: UnauthorisedError.
        """
        return exchange.bearer(read_key(self.key_variable))

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Create a video; size, seconds, fps and seed come from the order."""
        fields: dict[str, Any] = {}
        if order.size is not None:
            fields["size"] = f"{order.size[0]}x{order.size[1]}"
        fps = None if order.fps is None else max(1, round(order.fps))
        if order.duration_s is not None:
            fields["seconds"] = max(1, int(order.duration_s))
            if fields["seconds"] != order.duration_s and fps is not None:
                fields["num_frames"] = max(1, round(order.duration_s * fps))
        if fps is not None:
            fields["fps"] = fps
        fields |= order.parameters
        if order.seed is not None:
            fields["seed"] = order.seed % 2**31  # a torch generator takes more, some servers do not
        fields |= {"model": order.model, "prompt": order.prompt}
        form = {name: (None, _written(value)) for name, value in fields.items()}
        answer = await exchange.create(
            http, f"{self.base_url}/videos", self.auth_headers(), refused=_refused, files=form
        )
        return Task(answer.id("id"))

    def named(self, task_id: str, model: str) -> Task:
        """Return the task of an id, which is all that a poll needs."""
        return Task(task_id)

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """Poll one video."""
        target = f"{self.base_url}/videos/{task.id}"
        answer = await responses.read_task(http, target, self.auth_headers(), task, STATES)
        if isinstance(answer, Progress):
            return answer
        word = answer.get("status")
        if word == "completed":
            lengths = (answer.get("duration_s"), answer.get("seconds"))
            known = [sanitise.amount(length, at_most=1e5) for length in lengths]
            seconds = next((length for length in known if length is not None), None)
            return responses.succeeded(
                answer,
                word,
                [_url(answer) or f"{target}/content"],
                key_host=self.base_url,
                usage=None if seconds is None else Usage(seconds=seconds),
                seed=answer.get("seed"),
                model=answer.get("model"),
            )
        state = responses.state_of(STATES, word)
        if state == "failed" and _is_refusal(answer):
            state = "refused_output"
        reason = answer.reason if answer.get("error") is not None else None
        return responses.stands(answer, state, word, reason)

    async def find(
        self,
        http: httpx.AsyncClient,
        order: Order,
        taken: Collection[str] = (),
        since_s: float | None = None,
    ) -> Task | None:
        """Find the task by prompt and model, and by seed if the server lists seeds."""
        found: list[str] = []
        async for item in self._all(http):
            task_id = sanitise.identifier(sanitise.dig(item, "id"))
            if task_id is None or task_id in taken or responses.is_older(item, since_s):
                continue
            if _fits(item, order):
                found.append(task_id)
        return responses.only(found)

    async def _all(self, http: httpx.AsyncClient) -> AsyncIterator[Any]:
        """Yield the listed videos; some servers list without order. Errors: as `read`."""
        params = {"limit": str(PAGE), "order": "desc"}
        for _ in range(NUM_PAGES):
            target = f"{self.base_url}/videos"
            answer = await exchange.read(http, target, self.auth_headers(), params)
            listed = sanitise.items(answer.get("data"))
            for item in listed:
                yield item
            last = sanitise.identifier(sanitise.dig(listed, len(listed) - 1, "id"))
            if answer.get("has_more") is not True or last is None:
                return
            params["after"] = last
        raise VendorError(f"not among the newest {PAGE * NUM_PAGES} videos that the server lists")


def _fits(item: Any, order: Order) -> bool:
    prompt, seed = sanitise.dig(item, "prompt"), sanitise.dig(item, "seed")
    if prompt is None:
        raise VendorError("this server lists videos without their prompts")
    is_seed = seed is None or order.seed is None or seed == order.seed % 2**31
    return prompt == order.prompt and sanitise.dig(item, "model") == order.model and is_seed


def _url(answer: Answer) -> str | None:
    """Return the film's URL where the server gives one."""
    places = (("url",), ("urls", 0), ("outputs", "video_url"), ("output", "url"), ("video_url",))
    values = [answer.get(*place) for place in places]
    return next((value for value in values if sanitise.url(value) is not None), None)


def _is_refusal(answer: Answer) -> bool:
    return any(REFUSED.search(code) for code in answer.codes)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _refused(answer: Answer) -> RemoteError:
    if answer.status == 400 and _is_refusal(answer):
        return RefusedInputError(answer.reason)
    return exchange.refusal(answer)
