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

from afd.teachers import checked, exchange, outcomes
from afd.teachers.exchange import Answer
from afd.teachers.keys import read_key
from afd.teachers.remote import Order, Progress, State, Task, VendorError

REFUSALS = ("content_policy_violation", "content_moderated", "nsfw_content_detected")


@dataclass(frozen=True)
class Fal:
    """Any model on fal."""

    base_url: str
    key_variable: str
    name: str = "fal"
    can_list: bool = False

    def auth_headers(self) -> dict[str, str]:
        """Errors: UnauthorisedError."""
        return {"Authorization": f"Key {read_key(self.key_variable)}"}

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Inputs beyond prompt and seed are the model's own: parameters."""
        body: dict[str, Any] = {**order.parameters, "prompt": order.prompt}
        if order.seed is not None:
            body["seed"] = order.seed % 2**31
        answer = await exchange.create(
            http, f"{self.base_url}/{quote(order.model)}", self.auth_headers(), json=body
        )
        task_id = answer.id("request_id")
        said = checked.url(answer.get("status_url"))
        is_fals = said is not None and self._is_status(said.get_secret_value())
        return Task(task_id, said) if is_fals else self.named(task_id, order.model)

    def named(self, task_id: str, model: str) -> Task:
        """Where fal keeps the status of a request of this model."""
        app = "/".join(model.split("/")[:2])
        request = quote(task_id, safe="")
        return Task(task_id, SecretStr(f"{self.base_url}/{quote(app)}/requests/{request}/status"))

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """The status, and once it is completed the result."""
        status_url = task.poll_url.get_secret_value() if task.poll_url else ""
        if not self._is_status(status_url):
            raise VendorError("the kept status URL is not on the host of access.base_url")
        answer = await exchange.read(http, status_url, self.auth_headers(), accepted=(404,))
        if answer.status == 404:
            return outcomes.absent(answer)
        outcomes.check_id(answer, task, "request_id")
        word = checked.text(answer.get("status"))
        if word == "IN_QUEUE":
            return outcomes.stands(answer, "queued", word)
        if word == "IN_PROGRESS":
            return outcomes.stands(answer, "running", word)
        if word != "COMPLETED":
            return outcomes.stands(answer, "unknown", word)
        if checked.text(answer.get("error")):
            return outcomes.stands(answer, "failed", answer.get("error_type"), answer.get("error"))
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
        """Errors: VendorError, always."""
        raise VendorError("fal's queue lists no requests; look into its console")

    def _is_status(self, url: str) -> bool:
        if not checked.same_origin(url, self.base_url):
            return False
        parts = urlsplit(url)
        return parts.path.endswith("/status") and not parts.query and "@" not in parts.netloc


def _finished(result: Answer) -> Progress:
    videos = [result.get("video"), *checked.items(result.get("videos"))]
    urls = [checked.dig(video, "url") for video in videos if video is not None]
    return outcomes.succeeded(result, "COMPLETED", urls, seed=result.get("seed"))


def _failed(result: Answer) -> Progress:
    """The model's own failure is told where its result would be. Errors: VendorError for fal's."""
    problem = result.get("detail", 0)
    if checked.dig(problem, "type") in REFUSALS:
        is_input = checked.dig(problem, "loc", 1) is not None
        state: State = "refused_input" if is_input else "refused_output"
        return outcomes.stands(result, state, checked.dig(problem, "type"), result.reason)
    if result.status in (404, 410):
        return outcomes.stands(result, "expired", str(result.status), "the result is gone")
    if result.status == 422 or checked.text(result.get("error_type")):
        return outcomes.stands(result, "failed", str(result.status), result.reason)
    raise VendorError(exchange.sentence(result), result.retry_after_s)
