"""Volcengine Ark and BytePlus ModelArk: content generation tasks (Seedance)."""

import json
from typing import Any, ClassVar

from tests.harvest_server.jobs import Asked, Job
from tests.harvest_server.vendors.vendor import Answer, Route, bearer
from tests.harvest_server.wire import Request


class Ark:
    """Volcengine Ark and BytePlus ModelArk: content generation tasks (Seedance)."""

    words: ClassVar[dict[str, str]] = {
        "no_videos": "succeeded",
        "refused_input": "failed",
        "refused_output": "failed",
    }
    refuses_at_create = True
    tasks = "/api/v3/contents/generations/tasks"

    def route(self, request: Request) -> Route | None:
        if request.path == self.tasks:
            return ("create", "") if request.method == "POST" else ("list", "")
        if request.path.startswith(self.tasks + "/") and request.method == "GET":
            return "poll", request.path.removeprefix(self.tasks + "/")
        return None

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def asked(self, request: Request, subject: str) -> Asked:
        body = json.loads(request.body)
        prompt = next(part["text"] for part in body["content"] if part["type"] == "text")
        return Asked(prompt, body.get("seed"), body["model"], body)

    def created(self, job: Job, base: str) -> Answer:
        return 200, {"id": job.id}

    def polled(self, job: Job, state: str, urls: list[str], base: str, part: str) -> Answer:
        body = self._task(job, state)
        if state == "succeeded" and urls:
            body["content"] = {"video_url": urls[0]}
        if state in ("succeeded", "no_videos") and job.fate.usage:
            body["usage"] = {"completion_tokens": 108900, "total_tokens": 108900}
        if state in ("refused_input", "refused_output", "failed"):
            code = {
                "refused_input": "InputTextSensitiveContentDetected",
                "refused_output": "OutputVideoSensitiveContentDetected",
                "failed": "InternalServiceError",
            }[state]
            body["error"] = {"code": code, "message": job.fate.text}
        return 200, body

    def _task(self, job: Job, state: str) -> dict[str, Any]:
        return {
            "id": job.id,
            "model": job.asked.model,
            "status": self.words.get(state, state),
            "error": None,
            "created_at": int(job.created),
            "updated_at": int(job.created) + 1,
            "seed": job.seed,
            "resolution": job.asked.body.get("resolution", "720p"),
            "duration": job.asked.body.get("duration", 5),
            "ratio": "16:9",
            "framespersecond": 24,
        }

    def listed(self, jobs: list[Job], query: dict[str, str]) -> Answer:
        size, page = int(query.get("page_size", 10)), int(query.get("page_num", 1))
        model = query.get("filter.model")
        fitting = [job for job in jobs if model in (None, job.asked.model)]
        shown = fitting[size * (page - 1) : size * page]
        items = [self._task(job, job.state()) for job in shown]
        return 200, {"total": len(fitting), "items": items}

    def error(self, status: int, code: str, text: str) -> Any:
        code = "InputTextSensitiveContentDetected" if code == "refused" else code
        return {"error": {"code": code, "message": text, "param": "", "type": "BadRequest"}}
