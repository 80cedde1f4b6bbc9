"""Answers of today's vendors that adapters once misread: each of them cost a paid clip."""

import json
from typing import Any

import httpx
import pytest

from afd.clips.requests import TeacherSpec
from afd.config import Price
from afd.harvest.budget import cost_of_film
from afd.harvest.gather import stop_message
from afd.harvest.progress import Stop
from afd.harvest.provenance import differences
from afd.teachers.vendors import sanitise
from afd.teachers.vendors.protocol import (
    ListingTeacher,
    OutOfCreditError,
    Progress,
    RemoteError,
    Task,
    UnauthorisedError,
    VendorError,
)
from tests.afd.harvest.ordering import teacher_at
from tests.harvest_server import Fate, Rule, Script, Server
from tests.harvest_server.clients import VARIABLE, alone, order, teacher
from tests.harvest_server.vendors import Provider

# LiteLLM: base64 of provider, model, video and deployment.
GATEWAY_ID = "video_" + "bGl0ZWxsbTpjdXN0b21fbGxtX3Byb3ZpZGVy" * 8 + "{}=="


def first_poll(provider: Provider, script: Script, **changes: Any) -> Progress:
    """Return the first poll of an order."""
    with Server(provider, script) as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> Progress:
            return await adapter.poll(http, await adapter.create(http, order(provider, **changes)))

        return alone(life)


@pytest.mark.parametrize("provider", ["ark", "openai_videos", "replicate", "fal", "kling"])
@pytest.mark.parametrize("task_id", [GATEWAY_ID, "_{}", "-{}", "a+b~{}", "x" * 900 + "{}"])
def test_a_task_id_of_any_form_that_fits_a_path_is_polled(provider: Provider, task_id: str) -> None:
    assert first_poll(provider, Script(job_s=0, task_id=task_id)).state == "succeeded"
    assert sanitise.is_task_id(task_id.format("7"))  # `afd harvest resolve --created` takes it


@pytest.mark.parametrize("task_id", ["", "a/../b", "../a", "a b", "a\nb", "a?b", "a#b", "%2e", "ä"])
def test_an_id_that_leaves_its_place_in_a_path_is_none(task_id: str) -> None:
    assert not sanitise.is_task_id(task_id)


@pytest.mark.parametrize(
    "provider", ["ark", "openai_videos", "replicate", "kling", "openrouter", "gemini", "dashscope"]
)
@pytest.mark.parametrize("status", [400, 403, 404, 422, 429, 500, 503])
def test_a_failed_task_is_over_whatever_the_status_of_its_poll(
    provider: Provider, status: int
) -> None:
    error = {"code": 500, "message": "CUDA out of memory"}
    told = {} if provider == "replicate" else {"error": error}
    fate = Fate(ends="failed", status=status, text="CUDA out of memory", extra=told)
    progress = first_poll(provider, Script(job_s=0, fates=(fate,)))
    assert progress.state == "failed"
    assert "CUDA out of memory" in (progress.reason or "")
    assert not progress.is_absent


def test_a_failure_of_another_task_or_of_the_gateway_ends_nothing() -> None:
    for body in ('{"status": "failed"}', '{"id": "another", "status": "failed"}'):
        rule = Rule("poll", status=500, body=body)
        with pytest.raises(VendorError):
            first_poll("openai_videos", Script(rules=(rule,)))


FAL_ENDS: list[tuple[int, Any, dict[str, str], str]] = [
    (500, [{"type": "internal_server_error", "msg": "x", "loc": ["body"]}], {}, "failed"),
    (504, [{"type": "generation_timeout", "msg": "x"}], {}, "failed"),
    (400, [{"type": "downstream_service_error", "msg": "x"}], {}, "failed"),
    (500, [{"type": "downstream_service_unavailable", "msg": "x"}], {}, "failed"),
    (500, "Internal Server Error", {}, "failed"),
    (502, "gone", {"X-Fal-Error-Type": "runner_disconnected"}, "failed"),
    (503, "none", {"X-Fal-Error-Type": "runner_scheduling_failure"}, "failed"),
    (499, "closed", {}, "cancelled"),
    (404, [{"type": "file_not_found", "msg": "x"}], {}, "failed"),
    (404, "no such request", {}, "expired"),
    (422, [{"type": "no_media_generated", "msg": "x"}], {}, "refused_output"),
    (422, [{"type": "content_policy_violation", "loc": ["body", "prompt"]}], {}, "refused_input"),
    (400, "Request is still in progress", {}, "running"),
]


@pytest.mark.parametrize(("status", "detail", "headers", "state"), FAL_ENDS)
def test_the_result_of_a_completed_request_is_its_end(
    status: int, detail: Any, headers: dict[str, str], state: str
) -> None:
    body = json.dumps({"detail": detail})
    rule = Rule("poll", skip=1, status=status, body=body, headers=headers)
    assert first_poll("fal", Script(job_s=0, rules=(rule,))).state == state


@pytest.mark.parametrize("status", [401, 403, 408, 429])
def test_what_the_queue_itself_refuses_is_no_end(status: int) -> None:
    rule = Rule("poll", skip=1, status=status, body='{"detail": "no"}')
    with pytest.raises((VendorError, UnauthorisedError)):
        first_poll("fal", Script(job_s=0, rules=(rule,)))
    page = Rule("poll", skip=1, status=502, body="<html>Bad gateway</html>")
    with pytest.raises(VendorError):
        first_poll("fal", Script(job_s=0, rules=(page,)))


def test_a_cancelled_request_is_told_by_its_status() -> None:
    extra = {"error": "closed", "error_type": "client_cancelled"}
    script = Script(job_s=0, fates=(Fate(ends="failed", extra=extra),))
    assert first_poll("fal", script).state == "cancelled"


UNFAMILIAR: list[tuple[Provider, dict[str, Any]]] = [
    ("replicate", {"status": "succeeded", "output": {"mp4": "https://a.b/c.mp4"}}),
    ("ark", {"status": "succeeded", "content": {"file_url": "https://a.b/c.mp4"}}),
    ("ark", {"status": "succeeded", "content": None, "video_url": "https://a.b/c.mp4"}),
    ("fal", {"status": "COMPLETED", "output": {"url": "https://a.b/c.mp4"}}),
    ("fal", {"status": "COMPLETED", "video_url": "https://a.b/c.mp4"}),
]


@pytest.mark.parametrize(("provider", "body"), UNFAMILIAR)
def test_a_film_at_an_unfamiliar_place_is_not_taken_for_a_refusal(
    provider: Provider, body: dict[str, Any]
) -> None:
    rule = Rule("poll", times=None, body=json.dumps(body))
    progress = first_poll(provider, Script(job_s=0, rules=(rule,)))
    assert progress.state == "unknown"
    assert "console" in (progress.reason or "")


NO_CREDIT: list[tuple[Provider, int, dict[str, Any]]] = [
    ("ark", 403, {"error": {"code": "AccountOverdueError", "message": "overdue"}}),
    ("ark", 403, {"error": {"code": "OperationDenied.ServiceOverdue", "message": "x"}}),
    ("ark", 429, {"error": {"code": "SetLimitExceeded", "message": "x"}}),
    ("fal", 403, {"detail": "User is locked. Reason: Exhausted balance. Top up your balance at"}),
    ("openai_videos", 429, {"error": {"code": "insufficient_quota", "message": "x"}}),
    ("replicate", 402, {"detail": "Insufficient credit"}),
]


@pytest.mark.parametrize(("provider", "status", "body"), NO_CREDIT)
def test_an_account_without_credit_sends_nothing_new_and_keeps_what_is_paid(
    provider: Provider, status: int, body: dict[str, Any]
) -> None:
    with Server(provider, Script(job_s=0)) as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> None:
            task = await adapter.create(http, order(provider))
            server.rewrite(
                Script(
                    rules=(
                        Rule("create", status=status, body=json.dumps(body)),
                        Rule("poll", status=status, body=json.dumps(body)),
                    )
                )
            )
            with pytest.raises(OutOfCreditError):
                await adapter.create(http, order(provider))
            with pytest.raises(VendorError):  # not the key, which would stop the run at once
                await adapter.poll(http, task)
            assert (await adapter.poll(http, task)).state == "succeeded"

        alone(life)


def test_a_limit_of_requests_is_no_lack_of_credit() -> None:
    body = {"error": {"code": "RateLimitExceeded.EndpointRPMExceeded", "message": "rate limit"}}
    rule = Rule("create", status=429, body=json.dumps(body))
    with pytest.raises(RemoteError) as caught:
        first_poll("ark", Script(rules=(rule,)))
    assert not isinstance(caught.value, OutOfCreditError)


def test_an_account_that_bars_this_machine_stops_at_once() -> None:
    rule = Rule("create", body='{"code": 1304, "message": "IP not in the allow-list"}')
    with pytest.raises(UnauthorisedError):
        first_poll("kling", Script(rules=(rule,)))


def test_kling_takes_a_plain_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server("kling") as server:
        adapter = teacher(server)
        monkeypatch.setenv(VARIABLE, "plain-key")
        assert adapter.auth_headers() == {"Authorization": "Bearer plain-key"}


@pytest.mark.parametrize(
    ("duration_s", "fps", "sent"),
    [
        (5.0, 16.0, {"seconds": "5", "fps": "16"}),
        (5.0625, 16.0, {"seconds": "5", "fps": "16", "num_frames": "81"}),
        (0.5, 23.976, {"seconds": "1", "fps": "24", "num_frames": "12"}),
    ],
)
def test_open_servers_get_whole_seconds_and_rates_and_frames_for_the_rest(
    duration_s: float, fps: float, sent: dict[str, str]
) -> None:
    with Server("openai_videos") as server:
        adapter = teacher(server)
        asked = order("openai_videos", duration_s=duration_s, fps=fps)
        alone(lambda http: adapter.create(http, asked))
        [post] = server.book.posts
    assert {name: post.body.get(name) for name in ("seconds", "fps", "num_frames")} == {
        "num_frames": None
    } | sent


@pytest.mark.parametrize(
    "place", [{"url": ""}, {"urls": [""]}, {"outputs": {"video_url": ""}}, {"output": {"url": ""}}]
)
def test_a_server_with_cloud_storage_gives_the_address_of_the_film(place: dict[str, Any]) -> None:
    extra = json.loads(json.dumps(place).replace('""', '"https://bucket.example/a.mp4?sig=1"'))
    script = Script(job_s=0, fates=(Fate(extra={"duration_s": 5.06, **extra}),))
    progress = first_poll("openai_videos", script)
    [video] = progress.videos
    assert video.url.get_secret_value() == "https://bucket.example/a.mp4?sig=1"
    assert not video.headers_needed
    assert progress.usage is not None
    assert progress.usage.seconds == 5.06  # the server's own `seconds` is a default


def test_a_task_of_a_workflow_is_polled_under_its_namespace() -> None:
    with Server("fal") as server:
        adapter = teacher(server)
        for model, app in (("workflows/me/cut/x", "workflows/me/cut"), ("a/b/c", "a/b")):
            url = adapter.named("r1", model).poll_url
            assert url is not None
            assert url.get_secret_value() == f"{server.url}/{app}/requests/r1/status"


def test_the_model_behind_an_endpoint_is_no_difference() -> None:
    spec = TeacherSpec(
        provider="ark",
        model="ep-20261101-abc",
        parameters={},
        duration_s=None,
        fps=None,
        size=None,
        seeded=True,
    )
    facts = {"ran_model": "doubao-seedance-2-0-260128", "fps": 24.0, "duration_s": 5.0}
    assert differences(spec, facts) == []
    with Server("ark", Script(job_s=9)) as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> tuple[Task, Task | None]:
            assert isinstance(adapter, ListingTeacher)
            task = await adapter.create(http, order("ark"))
            return task, await adapter.find(http, order("ark", model="ep-20261101-abc"))

        created, found = alone(life)
        assert created == found


def test_a_film_longer_than_ordered_is_booked_by_its_length() -> None:
    by_second = Price(usd_per_second=0.1, date="2026-12-01")
    assert cost_of_film(by_second, 500_000, 8.0) == 800_000
    assert cost_of_film(by_second, 500_000, 4.9) == 500_000
    assert cost_of_film(Price(usd_per_clip=0.5, date="2026-12-01"), 500_000, 8.0) == 500_000


def test_a_stop_tells_how_soon_a_vendor_drops_what_is_paid() -> None:
    stop = Stop("interrupted", "interrupted", is_hard=True)
    for provider, words in (("fal", "6 minutes"), ("replicate", "an hour"), ("ark", None)):
        with Server(provider) as server:  # type: ignore[arg-type]
            told = stop_message(stop, teacher_at(server))
        assert words in told if words else "drops" not in told
