"""Kling: HTTP 200 with a code that is 0 or not, and a JWT for a key."""

import base64
import json
from typing import Any, ClassVar

from tests.harvest_server.jobs import Asked, Job
from tests.harvest_server.vendors.vendor import Answer, Route, bearer
from tests.harvest_server.wire import Request


class Kling:
    """Kling: HTTP 200 with a code that is 0 or not, and a JWT for a key."""

    words: ClassVar[dict[str, str]] = {
        "queued": "submitted",
        "running": "processing",
        "succeeded": "succeed",
        "no_videos": "succeed",
        "refused_input": "failed",
        "refused_output": "failed",
        "expired": "failed",
        "cancelled": "failed",
    }
    refuses_at_create = True
    tasks = "/v1/videos/text2video"

    def route(self, request: Request) -> Route | None:
        if request.path == self.tasks:
            return ("create", "") if request.method == "POST" else ("list", "")
        if request.path.startswith(self.tasks + "/") and request.method == "GET":
            return "poll", request.path.removeprefix(self.tasks + "/")
        return None

    def key(self, request: Request) -> str | None:
        token = bearer(request) or ""
        parts = token.split(".")
        if len(parts) != 3:
            return None
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
        return claims.get("iss")

    def asked(self, request: Request, subject: str) -> Asked:
        body = json.loads(request.body)
        return Asked(body["prompt"], None, body["model_name"], body)

    def _task(self, job: Job, state: str) -> dict[str, Any]:
        return {
            "task_id": job.id,
            "task_status": self.words.get(state, state),
            "task_status_msg": job.fate.text if job.is_done and state != "succeeded" else "",
            "task_info": {"external_task_id": job.asked.body.get("external_task_id")},
            "created_at": int(job.created * 1000),
        }

    def _ok(self, data: Any) -> Answer:
        return 200, {"code": 0, "message": "SUCCEED", "request_id": "r-1", "data": data}

    def created(self, job: Job, base: str) -> Answer:
        return self._ok(self._task(job, "queued"))

    def polled(self, job: Job, state: str, urls: list[str], base: str, part: str) -> Answer:
        data = self._task(job, state)
        if state == "succeeded":
            videos = [{"id": "v", "url": url, "duration": "5.1"} for url in urls]
            data["task_result"] = {"videos": videos}
        if state == "no_videos":
            data["task_result"] = {"videos": []}
        if state.startswith("refused"):
            data["task_status_msg"] = f"Failure to pass the risk control system. {job.fate.text}"
        return self._ok(data)

    def listed(self, jobs: list[Job], query: dict[str, str]) -> Answer:
        size, page = int(query.get("pageSize", 30)), int(query.get("pageNum", 1))
        shown = jobs[size * (page - 1) : size * page]
        return self._ok([self._task(job, job.state()) for job in shown])

    def error(self, status: int, code: str, text: str) -> Any:
        numbers = {"refused": 1301, "no_credit": 1102, "unauthorised": 1000, "busy": 1303}
        return {"code": numbers.get(code, 1201), "message": text, "request_id": "r-1"}
