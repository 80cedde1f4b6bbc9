"""Google's Gemini API: background interactions, as google-genai 3.6.1 sends and reads them."""

import json
import re
from typing import Any, ClassVar

from tests.harvest_server.jobs import Asked, Job
from tests.harvest_server.vendors.vendor import Answer, Route, bearer
from tests.harvest_server.wire import Request


class Gemini:
    """Steps with content; the film behind the key."""

    words: ClassVar[dict[str, str]] = {
        "running": "in_progress",
        "succeeded": "completed",
        "no_videos": "completed",
        "refused_input": "failed",
        "refused_output": "failed",
        "expired": "incomplete",
    }
    refuses_at_create = True

    def route(self, request: Request) -> Route | None:
        if request.path == "/v1beta/interactions" and request.method == "POST":
            return "create", ""
        found = re.fullmatch(r"/v1beta/interactions/([^/]+)", request.path)
        if found and request.method == "GET":
            return "poll", found[1]
        content = re.fullmatch(r"/v1beta/files/([^/:]+):download", request.path)
        return ("content", content[1]) if content else None

    def key(self, request: Request) -> str | None:
        return request.headers.get("x-goog-api-key") or bearer(request)

    def asked(self, request: Request, subject: str) -> Asked:
        body = json.loads(request.body)
        [video] = body["response_format"]
        assert body["background"] is True
        assert video["type"] == "video"
        assert video["delivery"] == "uri"
        assert re.fullmatch(r"[0-9.]+s", video["duration"])
        return Asked(body["input"], None, body["model"], body)

    def _interaction(self, job: Job, state: str) -> dict[str, Any]:
        return {
            "id": job.id,
            "object": "interaction",
            "model": job.asked.model,
            "status": self.words.get(state, state),
            "steps": [],
        }

    def created(self, job: Job, base: str) -> Answer:
        return 200, self._interaction(job, "queued")

    def polled(self, job: Job, state: str, urls: list[str], base: str, part: str) -> Answer:
        body = self._interaction(job, state)
        prompt = {"type": "user_input", "content": [{"type": "text", "text": job.asked.prompt}]}
        body["steps"] = [prompt]
        if state == "succeeded":
            uri = urls[0] if job.fate.url else f"{base}/v1beta/files/{job.id}:download?alt=media"
            film = {"type": "video", "mime_type": "video/mp4", "uri": uri}
            body["steps"].append({"type": "model_output", "content": [film]})
        if state == "no_videos":
            words = {"type": "text", "text": "I cannot film that."}
            body["steps"].append({"type": "model_output", "content": [words]})
        if state in ("succeeded", "no_videos") and job.fate.usage:
            body["usage"] = {"total_input_tokens": 9, "total_output_tokens": 5000}
        if state in ("failed", "refused_output"):
            why = "The video violates usage guidelines. " if state == "refused_output" else ""
            body["error"] = {"code": "internal", "message": why + job.fate.text}
        return 200, body

    def listed(self, jobs: list[Job], query: dict[str, str]) -> Answer:
        return 404, self.error(404, "NOT_FOUND", "no listing")

    def error(self, status: int, code: str, text: str) -> Any:
        why = "The prompt violates usage guidelines. " if code == "refused" else ""
        return {"error": {"code": status, "message": why + text, "status": code}}
