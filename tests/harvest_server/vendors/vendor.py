"""What the server asks of a provider's dialect."""

from typing import Any, ClassVar, Literal, Protocol

from tests.harvest_server.jobs import Asked, Job
from tests.harvest_server.wire import Request

Route = tuple[Literal["create", "poll", "list", "content"], str]
Answer = tuple[int, Any]


class Vendor(Protocol):
    """One provider's dialect."""

    words: ClassVar[dict[str, str]]  # our word for a state -> the vendor's
    refuses_at_create: bool  # else a refused prompt is a task that fails

    def route(self, request: Request) -> Route | None: ...
    def key(self, request: Request) -> str | None: ...
    def asked(self, request: Request, subject: str) -> Asked: ...
    def created(self, job: Job, base: str) -> Answer: ...
    def polled(self, job: Job, state: str, urls: list[str], base: str, part: str) -> Answer: ...
    def listed(self, jobs: list[Job], query: dict[str, str]) -> Answer: ...
    def error(self, status: int, code: str, text: str) -> Any: ...


def bearer(request: Request) -> str | None:
    """The key of `Authorization: Bearer`."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key if scheme == "Bearer" else None
