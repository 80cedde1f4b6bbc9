"""OpenRouter's video jobs, from its API reference: /api/v1/videos."""

import json
import re
from typing import Any, ClassVar

from tests.harvest_server.jobs import Asked, Job
from tests.harvest_server.vendors.vendor import Answer, Route, bearer
from tests.harvest_server.wire import Request


class OpenRouter:
    """JSON in, 202 out; the film behind the key, the bill in USD."""

    words: ClassVar[dict[str, str]] = {
        "queued": "pending",
        "running": "in_progress",
        "succeeded": "completed",
        "no_videos": "completed",
        "refused_input": "failed",
        "refused_output": "failed",
    }
    refuses_at_create = True

    def route(self, request: Request) -> Route | None:
        if request.path == "/api/v1/videos" and request.method == "POST":
            return "create", ""
        found = re.fullmatch(r"/api/v1/videos/([^/]+)(/content)?", request.path)
        if not found or request.method != "GET":
            return None
        return ("content" if found[2] else "poll"), found[1]

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def asked(self, request: Request, subject: str) -> Asked:
        body = json.loads(request.body)
        assert isinstance(body.get("duration", 5), int)
        return Asked(body["prompt"], body.get("seed"), body["model"], body)

    def _job(self, job: Job, state: str) -> dict[str, Any]:
        return {
            "id": job.id,
            "generation_id": None,
            "polling_url": f"/api/v1/videos/{job.id}",
            "status": self.words.get(state, state),
        }

    def created(self, job: Job, base: str) -> Answer:
        return 202, self._job(job, "queued")

    def polled(self, job: Job, state: str, urls: list[str], base: str, part: str) -> Answer:
        body = self._job(job, state)
        if state == "succeeded":
            behind_key = [f"{base}/api/v1/videos/{job.id}/content?index=0"]
            body["unsigned_urls"] = urls if job.fate.url else behind_key
        if state == "no_videos":
            body["unsigned_urls"] = []
        if state in ("succeeded", "no_videos") and job.fate.usage:
            body["usage"] = {"cost": 0.25, "is_byok": False}
        if state in ("failed", "refused_output"):
            flagged = "The video was flagged by content moderation. "
            body["error"] = (flagged if state == "refused_output" else "") + job.fate.text
        return 200, body

    def listed(self, jobs: list[Job], query: dict[str, str]) -> Answer:
        return 404, self.error(404, "not_found", "no listing")

    def error(self, status: int, code: str, text: str) -> Any:
        flagged = "Your input was flagged by moderation. " if code == "refused" else ""
        return {"error": {"code": status, "message": flagged + text}, "user_id": "u"}
