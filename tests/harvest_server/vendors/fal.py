"""fal's queue: submit, status, response; the status URL drops the model's subpath."""

import json
import re
from typing import Any, ClassVar, get_args

from tests.harvest_server.jobs import Asked, Job
from tests.harvest_server.script import Ending
from tests.harvest_server.vendors.vendor import Answer, Route
from tests.harvest_server.wire import Request


class Fal:
    """fal's queue: submit, status, response; the status URL drops the model's subpath."""

    words: ClassVar[dict[str, str]] = {"queued": "IN_QUEUE", "running": "IN_PROGRESS"}
    refuses_at_create = False

    def route(self, request: Request) -> Route | None:
        found = re.fullmatch(r"/[^/]+/[^/]+/requests/([^/]+)(/status)?", request.path)
        if found and request.method == "GET":
            return "poll", found[1] + (found[2] or "/response")
        if request.method == "POST" and request.path.count("/") >= 2:
            return "create", request.path[1:]
        return None

    def key(self, request: Request) -> str | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key if scheme == "Key" else None

    def asked(self, request: Request, subject: str) -> Asked:
        body = json.loads(request.body)
        return Asked(body["prompt"], body.get("seed"), subject, body)

    def _urls(self, job: Job, base: str) -> dict[str, str]:
        app = "/".join(job.asked.model.split("/")[:2])
        url = f"{base}/{app}/requests/{job.id}"
        return {"status_url": f"{url}/status", "response_url": url, "cancel_url": f"{url}/cancel"}

    def created(self, job: Job, base: str) -> Answer:
        body = {"request_id": job.id, "status": "IN_QUEUE", "queue_position": 0}
        return 200, body | self._urls(job, base)

    def polled(self, job: Job, state: str, urls: list[str], base: str, part: str) -> Answer:
        if part == "status":
            status = self.words.get(state, "COMPLETED" if state in get_args(Ending) else state)
            body: dict[str, Any] = {"request_id": job.id, "status": status}
            body |= self._urls(job, base)
            body |= {"queue_position": 0} if status == "IN_QUEUE" else {"logs": [], "metrics": {}}
            return (202 if status.startswith("IN_") else 200), body
        if state == "succeeded":
            return 200, {"video": {"url": urls[0], "content_type": "video/mp4"}, "seed": job.seed}
        if state == "no_videos":
            return 200, {"video": None, "seed": job.seed}
        if state in ("refused_input", "refused_output"):
            where = ["body", "prompt"] if state == "refused_input" else ["body"]
            problem = {"loc": where, "msg": job.fate.text, "type": "content_policy_violation"}
            return 422, {"detail": [problem | {"input": job.asked.prompt}]}
        if state in ("queued", "running"):
            return 400, {"detail": "Request is still in progress"}
        return 500, {"detail": job.fate.text, "error_type": "runner_error"}

    def listed(self, jobs: list[Job], query: dict[str, str]) -> Answer:
        return 404, self.error(404, "not_found", "no listing")

    def error(self, status: int, code: str, text: str) -> Any:
        return {"detail": text, "error_type": code}
