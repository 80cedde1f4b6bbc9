"""Replicate's predictions."""

import json
import re
import time
from datetime import UTC, datetime
from typing import Any, ClassVar

from tests.harvest_server.jobs import Asked, Job
from tests.harvest_server.vendors.vendor import Answer, Route, bearer
from tests.harvest_server.wire import Request


class Replicate:
    """Replicate's predictions."""

    words: ClassVar[dict[str, str]] = {
        "queued": "starting",
        "running": "processing",
        "no_videos": "succeeded",
        "refused_input": "failed",
        "refused_output": "failed",
        "cancelled": "canceled",
        "expired": "aborted",
    }
    refuses_at_create = False

    def route(self, request: Request) -> Route | None:
        made = re.fullmatch(r"/v1/models/([^/]+/[^/]+)/predictions", request.path)
        if made and request.method == "POST":
            return "create", made[1]
        if request.path == "/v1/predictions":
            return ("create", "") if request.method == "POST" else ("list", "")
        found = re.fullmatch(r"/v1/predictions/([^/]+)", request.path)
        return ("poll", found[1]) if found and request.method == "GET" else None

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def asked(self, request: Request, subject: str) -> Asked:
        body = json.loads(request.body)
        return Asked(
            body["input"]["prompt"],
            body["input"].get("seed"),
            subject or body["version"],
            body,
        )

    def _prediction(self, job: Job, state: str, base: str) -> dict[str, Any]:
        return {
            "id": job.id,
            "model": job.asked.model,
            "version": job.asked.body.get("version", "hidden"),
            "input": job.asked.body["input"],
            "status": self.words.get(state, state),
            "output": None,
            "error": None,
            "logs": "",
            "created_at": datetime.fromtimestamp(job.created, UTC).isoformat(),
            "urls": {"get": f"{base}/v1/predictions/{job.id}"},
        }

    def created(self, job: Job, base: str) -> Answer:
        return 201, self._prediction(job, "queued", base)

    def polled(self, job: Job, state: str, urls: list[str], base: str, part: str) -> Answer:
        body = self._prediction(job, state, base)
        if state == "succeeded":
            body["output"] = urls[0] if len(urls) == 1 else urls
        if state == "no_videos":
            body["output"] = []
        if state in ("succeeded", "no_videos") and job.fate.usage:
            body["metrics"] = {"predict_time": 12.5, "total_time": 13.0}
        if state in ("failed", "refused_input", "refused_output"):
            marks = {"failed": "E1001: ", "refused_input": "E005: sensitive: "}
            body["error"] = marks.get(state, "E006: NSFW content detected: ") + job.fate.text
        return 200, body

    def _forgotten(self, job: Job) -> dict[str, Any]:
        """An hour later nobody knows what was asked."""
        empty = {"input": {}, "output": None, "data_removed": True}
        return self._prediction(job, job.state(), "") | empty

    def listed(self, jobs: list[Job], query: dict[str, str]) -> Answer:
        start = int(query.get("cursor", 0))
        shown = [
            self._prediction(job, job.state(), "")
            if time.time() - job.created < 3600
            else self._forgotten(job)
            for job in jobs[start : start + 100]
        ]
        more = f"/v1/predictions?cursor={start + 100}" if start + 100 < len(jobs) else None
        return 200, {"next": more, "previous": None, "results": shown}

    def error(self, status: int, code: str, text: str) -> Any:
        return {"title": code, "detail": text, "status": status}
