"""OpenAI-shaped /v1/videos, as self-hosted servers speak it: multipart or JSON."""

import email.parser
import email.policy
import json
import re
from typing import Any, ClassVar

from tests.harvest_server.jobs import Asked, Job
from tests.harvest_server.vendors.vendor import Answer, Route, bearer
from tests.harvest_server.wire import Request


class OpenAI:
    """OpenAI-shaped /v1/videos, as self-hosted servers speak it: multipart or JSON."""

    words: ClassVar[dict[str, str]] = {
        "running": "in_progress",
        "succeeded": "completed",
        "no_videos": "completed",
    }
    refuses_at_create = True

    def route(self, request: Request) -> Route | None:
        if request.path == "/v1/videos":
            return ("create", "") if request.method == "POST" else ("list", "")
        found = re.fullmatch(r"/v1/videos/([^/]+)(/content)?", request.path)
        if not found or request.method != "GET":
            return None
        return ("content" if found[2] else "poll"), found[1]

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def asked(self, request: Request, subject: str) -> Asked:
        if request.headers["content-type"].startswith("application/json"):
            body = json.loads(request.body)
        else:
            body = _form(request)
        return Asked(
            body["prompt"], int(body["seed"]) if "seed" in body else None, body["model"], body
        )

    def _video(self, job: Job, state: str) -> dict[str, Any]:
        return {
            "id": job.id,
            "object": "video",
            "status": self.words.get(state, state),
            "model": job.asked.model,
            "prompt": job.asked.prompt,
            "progress": 100 if job.is_done else 0,
            "created_at": int(job.created),
            "seconds": str(job.asked.body.get("seconds", "4")),
            "size": job.asked.body.get("size", "64x64"),
            "error": None,
        }

    def created(self, job: Job, base: str) -> Answer:
        return 200, self._video(job, "queued")

    def polled(self, job: Job, state: str, urls: list[str], base: str, part: str) -> Answer:
        body = self._video(job, state)
        if state in ("failed", "refused_output", "expired", "cancelled"):
            code = "moderation_blocked" if state == "refused_output" else "internal_error"
            body |= {"status": "failed", "error": {"code": code, "message": job.fate.text}}
        return 200, body

    def listed(self, jobs: list[Job], query: dict[str, str]) -> Answer:
        ids = [job.id for job in jobs]
        start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        limit = int(query.get("limit", 20))
        shown = jobs[start : start + limit]
        return 200, {
            "object": "list",
            "data": [self._video(job, job.state()) for job in shown],
            "has_more": start + limit < len(jobs),
            "last_id": shown[-1].id if shown else None,
        }

    def error(self, status: int, code: str, text: str) -> Any:
        code = "moderation_blocked" if code == "refused" else code
        return {"error": {"message": text, "type": "invalid_request_error", "code": code}}


def _form(request: Request) -> dict[str, Any]:
    """The fields of a multipart form, by the standard library's own parser of such bodies."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
    fields: dict[str, Any] = {}
    for part in parsed.iter_parts():  # type: ignore[attr-defined]
        name = part.get_param("name", header="content-disposition")
        fields[str(name)] = part.get_payload(decode=True).decode()
    return fields
