"""Google's Gemini API: predictLongRunning operations."""

import json
import re
from typing import Any, ClassVar

from tests.harvest_server.jobs import Asked, Job
from tests.harvest_server.vendors.vendor import Answer, Route, bearer
from tests.harvest_server.wire import Request


class Veo:
    """Google's Gemini API: predictLongRunning operations."""

    words: ClassVar[dict[str, str]] = {}
    refuses_at_create = False

    def route(self, request: Request) -> Route | None:
        made = re.fullmatch(r"/v1beta/models/([^/:]+):predictLongRunning", request.path)
        if made and request.method == "POST":
            return "create", made[1]
        polled = re.fullmatch(r"/v1beta/models/[^/]+/operations/([^/]+)", request.path)
        if polled and request.method == "GET":
            return "poll", polled[1]
        content = re.fullmatch(r"/v1beta/files/([^/:]+):download", request.path)
        return ("content", content[1]) if content else None

    def key(self, request: Request) -> str | None:
        return request.headers.get("x-goog-api-key") or bearer(request)

    def asked(self, request: Request, subject: str) -> Asked:
        body = json.loads(request.body)
        seed = body.get("parameters", {}).get("seed")
        return Asked(body["instances"][0]["prompt"], seed, subject, body)

    def created(self, job: Job, base: str) -> Answer:
        return 200, {"name": self._name(job)}

    def _name(self, job: Job) -> str:
        return f"models/{job.asked.model}/operations/{job.id}"

    def polled(self, job: Job, state: str, urls: list[str], base: str, part: str) -> Answer:
        body: dict[str, Any] = {"name": self._name(job)}
        if state in ("queued", "running"):
            return 200, body
        body["done"] = True
        made: dict[str, Any] = {}
        if state == "succeeded":
            uris = (
                [f"{base}/v1beta/files/{job.id}:download?alt=media"] if not job.fate.url else urls
            )
            made["generatedSamples"] = [{"video": {"uri": uri}} for uri in uris[: len(urls)]]
        elif state == "refused_output":
            made = {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": [job.fate.text]}
        elif state == "no_videos":
            made = {"generatedSamples": []}
        else:
            code = {"refused_input": 3, "cancelled": 1, "expired": 4}.get(state, 13)
            why = "The prompt violates usage guidelines. " if state == "refused_input" else ""
            body["error"] = {"code": code, "message": why + job.fate.text}
            return 200, body
        body["response"] = {"@type": "x/PredictLongRunningResponse", "generateVideoResponse": made}
        return 200, body

    def listed(self, jobs: list[Job], query: dict[str, str]) -> Answer:
        return 404, self.error(404, "NOT_FOUND", "no listing")

    def error(self, status: int, code: str, text: str) -> Any:
        return {"error": {"code": status, "message": text, "status": code}}
