"""fal: a queue in front of hosted models.

    POST {base}/{model} -> request_id, status_url     GET status_url     GET response_url
    base: https://queue.fal.run

The status URL that fal returns is used, since it drops the model's subpath; it is believed only on
fal's own host. The result of a completed request is the model's own answer with its own status:
"if the model returned an error, this operation returns the same error", so any JSON there is the
end. Results live for an hour, those of 10 KB or more for 6 minutes. No listing, no length sent.
Source: fal.ai/docs/inference-api/queue/result and .../errors (November 2026).
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from pydantic import SecretStr

from afd.teachers.vendors import exchange, responses, sanitise
from afd.teachers.vendors.exchange import Answer
from afd.teachers.vendors.keys import read_key
from afd.teachers.vendors.protocol import Order, Progress, State, Task, VendorError

WORKFLOWS = ("workflows", "comfy")  # namespaces: their apps have three parts
RETRIED = (401, 403, 408, 425, 429)  # of the key and of the queue, never of the model
REFUSALS = ("content_policy_violation", "content_moderated", "nsfw_content_detected")


@dataclass(frozen=True)
class Fal:
    """Any model on fal."""

    base_url: str
    key_variable: str
    name: str = "fal"

    def auth_headers(self) -> dict[str, str]:
        """Return the headers with the key. Errors: UnauthorisedError."""
        return {"Authorization": f"Key {read_key(self.key_variable)}"}

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Create a request; inputs beyond prompt and seed come from the order's parameters."""
        body: dict[str, Any] = {**order.parameters, "prompt": order.prompt}
        if order.seed is not None:
            body["seed"] = order.seed % 2**31
        answer = await exchange.create(
            http, f"{self.base_url}/{quote(order.model)}", self.auth_headers(), json=body
        )
        task_id = answer.id("request_id")
        returned = sanitise.url(answer.get("status_url"))
        is_fals = returned is not None and self._is_status(returned.get_secret_value())
        return Task(task_id, returned) if is_fals else self.named(task_id, order.model)

    def named(self, task_id: str, model: str) -> Task:
        """Return the task with fal's status URL for this model."""
        parts = model.split("/")
        app = "/".join(parts[: 3 if parts[0] in WORKFLOWS else 2])
        request = quote(task_id, safe="")
        return Task(task_id, SecretStr(f"{self.base_url}/{quote(app)}/requests/{request}/status"))

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """Poll the status and, after completion, the result."""
        status_url = task.poll_url.get_secret_value() if task.poll_url else ""
        if not self._is_status(status_url):
            raise VendorError("the kept status URL is not on the host of access.base_url")
        answer = await exchange.read(http, status_url, self.auth_headers(), accepted=(404,))
        if answer.status == 404:
            return responses.absent(answer)
        responses.check_id(answer, task, "request_id")
        word = sanitise.text(answer.get("status"))
        if word == "IN_QUEUE":
            return responses.stands(answer, "queued", word)
        if word == "IN_PROGRESS":
            return responses.stands(answer, "running", word)
        if word != "COMPLETED":
            return responses.stands(answer, "unknown", word)
        if answer.get("error"):
            return _failed(answer)
        target = status_url.removesuffix("/status")
        result = await exchange.read(http, target, self.auth_headers(), is_result=_is_result)
        return _finished(result) if result.status // 100 == 2 else _failed(result)

    def _is_status(self, url: str) -> bool:
        if not sanitise.same_origin(url, self.base_url):
            return False
        parts = urlsplit(url)
        return parts.path.endswith("/status") and not parts.query and "@" not in parts.netloc


def _finished(result: Answer) -> Progress:
    body: Any = result.body
    if not isinstance(body, dict) or not {"video", "videos"} & body.keys():
        return responses.succeeded(result, "COMPLETED", None)
    videos = [result.get("video"), *sanitise.items(result.get("videos"))]
    urls = [sanitise.dig(video, "url") for video in videos if video is not None]
    return responses.succeeded(result, "COMPLETED", urls, seed=result.get("seed"))


def _is_result(answer: Answer) -> bool:
    return answer.body is not None and answer.status >= 400 and answer.status not in RETRIED


def _failed(answer: Answer) -> Progress:
    """Return the end of a request whose model failed."""
    kind = next(iter(answer.codes), None)
    word = str(answer.status) if kind is None else kind
    state: State = "failed"
    if kind in REFUSALS:
        is_input = answer.get("detail", 0, "loc", 1) is not None
        state = "refused_input" if is_input else "refused_output"
    elif kind == "no_media_generated":
        state = "refused_output"
    elif kind == "client_cancelled" or answer.status == 499:
        state = "cancelled"
    elif kind is None and answer.status in (404, 410):
        return responses.stands(answer, "expired", word, "the result is gone")
    elif "still in progress" in answer.reason:
        state = "running"
    return responses.stands(answer, state, word, answer.reason)
