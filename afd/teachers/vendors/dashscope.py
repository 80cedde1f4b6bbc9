"""Alibaba's DashScope (Model Studio): Wan, HappyHorse.

    POST {base}/services/aigc/video-generation/video-synthesis -> output.task_id
    GET {base}/tasks/{id} -> output.task_status, output.video_url
    base: https://dashscope-intl.aliyuncs.com/api/v1, https://dashscope.aliyuncs.com/api/v1, or the
    workspace's own host; model, address and key are of one region

A task and its film are kept for 24 hours; an older one has the status UNKNOWN. Billed by seconds.
No listing with prompts.
Source: "Wan text-to-video API reference" of Model Studio and dashscope 2.0.2 (November 2026).
"""

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
    "PENDING": "queued",
    "RUNNING": "running",
    "SUSPENDED": "running",
    "FAILED": "failed",
    "CANCELED": "cancelled",
}
REFUSAL = "DataInspectionFailed"
INPUTS = ("negative_prompt", "audio_url", "media")  # the rest of the parameters is the model's


@dataclass(frozen=True)
class DashScope:
    """Wan models of Model Studio."""

    base_url: str
    key_variable: str
    name: str = "dashscope"

    def auth_headers(self) -> dict[str, str]:
        """Return the headers with the key. Errors: UnauthorisedError."""
        return exchange.bearer(read_key(self.key_variable))

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Create a task; size or resolution and ratio come from the order's parameters."""
        parameters: dict[str, Any] = {}
        if order.duration_s is not None:
            parameters["duration"] = sanitise.whole_if_whole(order.duration_s)
        parameters |= {name: v for name, v in order.parameters.items() if name not in INPUTS}
        if order.seed is not None:
            parameters["seed"] = order.seed % 2**31
        inputs = {name: v for name, v in order.parameters.items() if name in INPUTS}
        body: dict[str, Any] = {
            "model": order.model,
            "input": inputs | {"prompt": order.prompt},
            "parameters": parameters,
        }
        answer = await exchange.create(
            http,
            f"{self.base_url}/services/aigc/video-generation/video-synthesis",
            self.auth_headers(),
            refused=_refused,
            plain_headers={"X-DashScope-Async": "enable"},
            json=body,
        )
        return Task(answer.id("output", "task_id"))

    def named(self, task_id: str, model: str) -> Task:
        """Return the task of an id, which is all that a poll needs."""
        return Task(task_id)

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """Poll one task."""
        target = f"{self.base_url}/tasks/{task.id}"
        answer = await responses.read_task(
            http, target, self.auth_headers(), task, STATES,
            ("output", "task_id"), ("output", "task_status"),
        )  # fmt: skip
        if isinstance(answer, Progress):
            return answer
        word = answer.get("output", "task_status")
        if word == "UNKNOWN":
            return responses.absent(answer, word)
        usage = _usage(answer)
        if word == "SUCCEEDED":
            return responses.succeeded(answer, word, _urls(answer), usage=usage)
        state = responses.state_of(STATES, word)
        code = sanitise.text(answer.get("output", "code"))
        message = sanitise.text(answer.get("output", "message")) or ""
        if state == "failed" and code == REFUSAL:
            state = "refused_input" if message.lower().startswith("input") else "refused_output"
        reason = None if code is None else f"{code}: {message}"
        return responses.stands(answer, state, word, reason, usage)


def _urls(answer: Answer) -> list[Any] | None:
    """Return the film's URL, [] if its place is empty, None if it may be at another place."""
    output: Any = answer.get("output")
    if "video_url" in output:
        return [output["video_url"]] if output["video_url"] else []
    return None


def _usage(answer: Answer) -> Usage | None:
    places = ("output_video_duration", "video_duration", "duration")
    lengths = [sanitise.amount(answer.get("usage", place), at_most=1e5) for place in places]
    seconds = next((length for length in lengths if length), None)
    return None if seconds is None else Usage(seconds=seconds)


def _refused(answer: Answer) -> RemoteError:
    if answer.status == 400 and answer.get("code") == REFUSAL:
        return RefusedInputError(answer.reason)
    return exchange.refusal(answer)
