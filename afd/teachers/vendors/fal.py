"""fal: a queue in front of hosted models.

    POST {base}/{model} -> request_id, status_url     GET status_url     GET response_url
    base: https://queue.fal.run

The status URL that fal returns is used, since it drops the model's subpath; it is believed only on
fal's own host. A refusal is a 422 with typed problems where the result would be. No listing.
Source: fal.ai/docs/documentation/model-apis/inference/queue and .../errors (November 2026).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from pydantic import SecretStr

from afd.teachers.vendors import exchange, responses, sanitise
from afd.teachers.vendors.exchange import Answer
from afd.teachers.vendors.keys import read_key
from afd.teachers.vendors.protocol import Order, Progress, State, Task, VendorError

REFUSALS = ("content_policy_violation", "content_moderated", "nsfw_content_detected")


@dataclass(frozen=True)
class Fal:
    """Any model on fal."""

    base_url: str
    key_variable: str
    name: str = "fal"
    can_list: bool = False

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
        app = "/".join(model.split("/")[:2])
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
        if sanitise.text(answer.get("error")):
            return responses.stands(answer, "failed", answer.get("error_type"), answer.get("error"))
        result = await exchange.read(
            http,
            status_url.removesuffix("/status"),
            self.auth_headers(),
            accepted=(400, 404, 410, 422, 500, 504),
        )
        return _finished(result) if result.status // 100 == 2 else _failed(result)

    async def find(
        self,
        http: httpx.AsyncClient,
        order: Order,
        taken: Collection[str] = (),
        since_s: float | None = None,
    ) -> Task | None:
        """Raise VendorError: this vendor has no listing."""
        raise VendorError("fal's queue lists no requests; look into its console")

    def _is_status(self, url: str) -> bool:
        if not sanitise.same_origin(url, self.base_url):
            return False
        parts = urlsplit(url)
        return parts.path.endswith("/status") and not parts.query and "@" not in parts.netloc


def _finished(result: Answer) -> Progress:
    videos = [result.get("video"), *sanitise.items(result.get("videos"))]
    urls = [sanitise.dig(video, "url") for video in videos if video is not None]
    return responses.succeeded(result, "COMPLETED", urls, seed=result.get("seed"))


def _failed(result: Answer) -> Progress:
    """Return the model's failure, which stands in its result. Errors: VendorError for fal's."""
    problem = result.get("detail", 0)
    if sanitise.dig(problem, "type") in REFUSALS:
        is_input = sanitise.dig(problem, "loc", 1) is not None
        state: State = "refused_input" if is_input else "refused_output"
        return responses.stands(result, state, sanitise.dig(problem, "type"), result.reason)
    if result.status in (404, 410):
        return responses.stands(result, "expired", str(result.status), "the result is gone")
    if result.status == 422 or sanitise.text(result.get("error_type")):
        return responses.stands(result, "failed", str(result.status), result.reason)
    raise VendorError(exchange.sentence(result), result.retry_after_s)
