"""Google Veo through the Gemini API: long-running operations.

    POST {base}/models/{model}:predictLongRunning -> name      GET {base}/{name} -> done, response
    base: https://generativelanguage.googleapis.com/v1beta

The safety filter answers 200 with fewer videos, or none. Videos are kept for two days and want the
key with the download. No listing, no usage, and a seed only where the model takes one. A key that
begins with `ya29.` is an OAuth token and goes as a Bearer. Vertex AI answers into a bucket and is
another shape: not this one.
Source: ai.google.dev/gemini-api/docs/video and the REST reference (November 2026).
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from afd.teachers.vendors import exchange, responses, sanitise
from afd.teachers.vendors.exchange import Answer
from afd.teachers.vendors.keys import read_key
from afd.teachers.vendors.protocol import (
    AmbiguousError,
    Order,
    Progress,
    RefusedInputError,
    RemoteError,
    State,
    Task,
    UnknownTaskError,
    VendorError,
)

NAME = re.compile(r"[A-Za-z]{1,20}(/[A-Za-z0-9][A-Za-z0-9._-]{0,120}){1,8}")
REFUSED = re.compile(r"usage guidelines|responsible ai|safety|sensitive|violat|prohibited", re.I)
ENDINGS: dict[int, State] = {1: "cancelled", 4: "expired"}  # google.rpc.Code


@dataclass(frozen=True)
class Veo:
    """Veo by API key or OAuth token."""

    base_url: str
    key_variable: str
    name: str = "veo"

    def auth_headers(self) -> dict[str, str]:
        """Return the headers with the key. Errors: UnauthorisedError."""
        key = read_key(self.key_variable)
        return exchange.bearer(key) if key.startswith("ya29.") else {"x-goog-api-key": key}

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Create an operation; aspectRatio and resolution come from the order's parameters."""
        parameters: dict[str, Any] = {}
        if order.duration_s is not None:
            parameters["durationSeconds"] = sanitise.whole_if_whole(order.duration_s)
        parameters |= order.parameters
        if order.seed is not None:
            parameters["seed"] = order.seed % 2**32  # uint32
        body = {"instances": [{"prompt": order.prompt}], "parameters": parameters}
        target = f"{self.base_url}/models/{quote(order.model, safe='')}:predictLongRunning"
        answer = await exchange.create(
            http, target, self.auth_headers(), refused=_refused, json=body
        )
        name = answer.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name) or "operations/" not in name:
            raise AmbiguousError(
                f"the vendor answered {answer.status}, but with no usable operation name "
                f"({answer.clean(name, 60)}); the task may exist"
            )
        return Task(name)

    def named(self, task_id: str, model: str) -> Task:
        """Return the task of an id, which is all that a poll needs."""
        return Task(task_id)

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """Poll one operation; its name is the task's id."""
        if not NAME.fullmatch(task.id):
            raise UnknownTaskError("the kept operation name is not one of Veo's")
        answer = await exchange.read(
            http, f"{self.base_url}/{task.id}", self.auth_headers(), accepted=(404,)
        )
        if answer.status == 404:
            return responses.absent(answer)
        if answer.get("name") not in (None, task.id):
            raise VendorError("the vendor answered about another operation")
        if answer.get("done") is not True:
            word = "done" if answer.get("done") else "running"
            return responses.stands(answer, "running" if word == "running" else "unknown", word)
        if answer.get("error") is not None:
            return _failed(answer)
        made = answer.get("response", "generateVideoResponse")
        samples = sanitise.items(sanitise.dig(made, "generatedSamples"))
        uris = [sanitise.dig(sample, "video", "uri") for sample in samples]
        reason = sanitise.dig(made, "raiMediaFilteredReasons", 0)
        has_place = isinstance(sanitise.dig(made, "generatedSamples"), list)
        if not uris and not has_place and reason is None:
            return responses.succeeded(answer, "done", None)
        if not uris and reason is not None:
            return responses.stands(answer, "refused_output", "filtered", reason)
        return responses.succeeded(answer, "done", uris, key_host=self.base_url)


def _failed(answer: Answer) -> Progress:
    code = answer.get("error", "code")
    message = sanitise.text(answer.get("error", "message")) or ""
    state: State = ENDINGS.get(code, "failed") if type(code) is int else "failed"
    if code == 3 and REFUSED.search(message):
        state = "refused_input"
    return responses.stands(answer, state, f"error {answer.clean(str(code), 20)}", message)


def _refused(answer: Answer) -> RemoteError:
    message = sanitise.text(answer.get("error", "message")) or ""
    if answer.status == 400 and REFUSED.search(message):
        return RefusedInputError(answer.reason)
    return exchange.refusal(answer)
