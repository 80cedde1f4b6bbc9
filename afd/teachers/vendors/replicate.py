"""Replicate: predictions of hosted models.

    POST {base}/models/{owner}/{name}/predictions or, with a version, POST {base}/predictions -> id
    GET {base}/predictions/{id}      GET {base}/predictions?cursor=      base: https://api.replicate.com/v1

A model is `owner/name` or, exact for ever, `owner/name:version`. Inputs beyond prompt and seed are
the model's own: parameters. Listings show inputs whole, but inputs and results are removed after an
hour: a lost answer is found again within that hour or by hand.
Source: replicate.com/docs/reference/http, .../topics/predictions (November 2026).
"""

import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx

from afd.teachers.vendors import exchange, responses, sanitise
from afd.teachers.vendors.exchange import Answer
from afd.teachers.vendors.keys import read_key
from afd.teachers.vendors.protocol import Order, Progress, State, Task, VendorError

STATES: dict[str, State] = {
    "starting": "queued",
    "processing": "running",
    "failed": "failed",
    "canceled": "cancelled",
    "aborted": "expired",
}
# Models write refusals into the error as text; E005 is Replicate's own "input flagged".
REFUSED_INPUT = re.compile(r"\bE005\b|(input|prompt)\b.{0,60}(flagged|sensitive)", re.I)
REFUSED = re.compile(
    r"nsfw|flagged|sensitive|content polic|moderation|safety system|copyright restriction", re.I
)
NUM_PAGES = 20  # of 100


@dataclass(frozen=True)
class Replicate:
    """Any model on Replicate."""

    base_url: str
    key_variable: str
    name: str = "replicate"

    def auth_headers(self) -> dict[str, str]:
        """Return the headers with the key. Errors: UnauthorisedError."""
        return exchange.bearer(read_key(self.key_variable))

    async def create(self, http: httpx.AsyncClient, order: Order) -> Task:
        """Create a prediction of a model, or of a version if the model names one."""
        model, _, version = order.model.partition(":")
        inputs: dict[str, Any] = {**order.parameters, "prompt": order.prompt}
        if order.seed is not None:
            inputs["seed"] = order.seed % 2**31
        body: dict[str, Any] = {"input": inputs}
        if version:
            target = f"{self.base_url}/predictions"
            body["version"] = version
        else:
            target = f"{self.base_url}/models/{quote(model)}/predictions"
        answer = await exchange.create(http, target, self.auth_headers(), json=body)
        return Task(answer.id("id"))

    def named(self, task_id: str, model: str) -> Task:
        """Return the task of an id, which is all that a poll needs."""
        return Task(task_id)

    async def poll(self, http: httpx.AsyncClient, task: Task) -> Progress:
        """Poll one prediction."""
        target = f"{self.base_url}/predictions/{task.id}"
        answer = await responses.read_task(http, target, self.auth_headers(), task, STATES)
        if isinstance(answer, Progress):
            return answer
        word = answer.get("status")
        if word == "succeeded":
            if answer.get("data_removed") is True:
                return responses.stands(answer, "expired", word, "the vendor has removed the video")
            return responses.succeeded(
                answer,
                word,
                _urls(answer.get("output")),
                seed=answer.get("input", "seed"),
                model=_model(answer),
            )
        state = responses.state_of(STATES, word)
        message = sanitise.text(answer.get("error")) or ""
        if state == "failed" and REFUSED_INPUT.search(message):
            state = "refused_input"
        elif state == "failed" and REFUSED.search(message):
            state = "refused_output"
        return responses.stands(answer, state, word, message or None)

    async def find(
        self,
        http: httpx.AsyncClient,
        order: Order,
        taken: Collection[str] = (),
        since_s: float | None = None,
    ) -> Task | None:
        """Find the task by model, prompt and seed. Errors: VendorError.

        What the vendor has forgotten may be ours: then nobody can say that it lists none.
        """
        found: list[str] = []
        has_forgotten = False
        async for item in self._newest(http):
            if responses.is_older(item, since_s):
                break
            task_id = sanitise.identifier(sanitise.dig(item, "id"))
            if task_id is None or task_id in taken or not _is_model(item, order):
                continue
            if sanitise.dig(item, "data_removed") is True:
                has_forgotten = True
            elif _is_order(item, order):
                found.append(task_id)
        if has_forgotten and not found:
            raise VendorError(
                "Replicate has removed what was asked of tasks that might be this one"
            )
        return responses.only(found)

    async def _newest(self, http: httpx.AsyncClient) -> AsyncIterator[Any]:
        """Yield the listed predictions. Errors: as `read`; VendorError for an endless listing."""
        params: dict[str, str] = {}
        for _ in range(NUM_PAGES):
            target = f"{self.base_url}/predictions"
            answer = await exchange.read(http, target, self.auth_headers(), params)
            for item in sanitise.items(answer.get("results")):
                yield item
            cursor = _cursor(answer.get("next"))
            if cursor is None:
                return
            params = {"cursor": cursor}  # of the vendor's URL, nothing else is believed
        raise VendorError(f"not among the newest {100 * NUM_PAGES} predictions")


def _is_model(item: Any, order: Order) -> bool:
    model, _, version = order.model.partition(":")
    if version and sanitise.dig(item, "version") != version:
        return False
    return sanitise.dig(item, "model") in (model, order.model, version)


def _is_order(item: Any, order: Order) -> bool:
    seed = None if order.seed is None else order.seed % 2**31
    inputs = sanitise.dig(item, "input")
    return sanitise.dig(inputs, "prompt") == order.prompt and sanitise.dig(inputs, "seed") == seed


def _urls(output: Any) -> list[Any] | None:
    """Return the URLs of an output: a URL, a list of them, or an object with one.

    None: an object whose video, if there is one, has another name.
    """
    if isinstance(output, dict):
        if output and not {"video", "url"} & output.keys():
            return None
        output = sanitise.dig(output, "video") or sanitise.dig(output, "url")
    return [] if output is None else sanitise.items(output) or ([output] if output != [] else [])


def _model(answer: Answer) -> str | None:
    model, version = (sanitise.text(answer.get(key)) for key in ("model", "version"))
    return f"{model}:{version}" if model and version and version not in model else model


def _cursor(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        found = parse_qs(urlsplit(value).query).get("cursor", [])
    except ValueError:
        return None
    return found[0] if found and len(found[0]) < 1000 else None
