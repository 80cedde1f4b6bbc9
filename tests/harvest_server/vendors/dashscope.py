"""DashScope's video synthesis, from Model Studio's API reference."""

import json
import re
from typing import Any, ClassVar

from tests.harvest_server.jobs import Asked, Job
from tests.harvest_server.vendors.vendor import Answer, Route, bearer
from tests.harvest_server.wire import Request


class DashScope:
    """One asynchronous create, one task a poll."""

    words: ClassVar[dict[str, str]] = {
        "queued": "PENDING",
        "running": "RUNNING",
        "succeeded": "SUCCEEDED",
        "no_videos": "SUCCEEDED",
        "failed": "FAILED",
        "refused_input": "FAILED",
        "refused_output": "FAILED",
        "expired": "UNKNOWN",
        "cancelled": "CANCELED",
    }
    refuses_at_create = True

    def route(self, request: Request) -> Route | None:
        path = "/api/v1/services/aigc/video-generation/video-synthesis"
        if request.path == path and request.method == "POST":
            return "create", ""
        found = re.fullmatch(r"/api/v1/tasks/([^/]+)", request.path)
        return ("poll", found[1]) if found and request.method == "GET" else None

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def asked(self, request: Request, subject: str) -> Asked:
        assert request.headers["x-dashscope-async"] == "enable"  # else it answers minutes later
        body = json.loads(request.body)
        seed = body["parameters"].get("seed")
        return Asked(body["input"]["prompt"], seed, body["model"], body)

    def _task(self, job: Job, state: str) -> dict[str, Any]:
        output = {"task_id": job.id, "task_status": self.words.get(state, state)}
        return {"request_id": "r-1", "output": output}

    def created(self, job: Job, base: str) -> Answer:
        return 200, self._task(job, "queued")

    def polled(self, job: Job, state: str, urls: list[str], base: str, part: str) -> Answer:
        body = self._task(job, state)
        if state == "succeeded":
            body["output"]["video_url"] = urls[0]
        if state == "no_videos":
            body["output"]["video_url"] = ""
        if state in ("succeeded", "no_videos") and job.fate.usage:
            body["usage"] = {"duration": 5, "output_video_duration": 5, "video_count": 1}
        if state in ("failed", "refused_output"):
            refused = state == "refused_output"
            body["output"]["code"] = "DataInspectionFailed" if refused else "InternalError"
            body["output"]["message"] = ("Output data may be unfit. " * refused) + job.fate.text
        return 200, body

    def listed(self, jobs: list[Job], query: dict[str, str]) -> Answer:
        return 404, self.error(404, "not_found", "no listing")

    def error(self, status: int, code: str, text: str) -> Any:
        code = "DataInspectionFailed" if code == "refused" else code
        return {"request_id": "r-1", "code": code, "message": text}
