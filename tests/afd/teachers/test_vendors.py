"""Each adapter against its provider's shapes, over real sockets."""

import asyncio
import logging
import pickle
import time
import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, get_args

import httpx
import pytest

from afd.harvest.addresses import Allowed
from afd.harvest.download import Policy, fetch
from afd.harvest.http import download_client
from afd.teachers.vendors import keys
from afd.teachers.vendors.protocol import (
    AmbiguousError,
    ListingTeacher,
    NothingCreatedError,
    NotSentError,
    OutOfCreditError,
    Progress,
    RefusedInputError,
    RejectedError,
    RemoteError,
    RemoteTeacher,
    State,
    Task,
    UnauthorisedError,
    VendorError,
)
from afd.teachers.vendors.veo import Veo
from afd.video.decode import decode
from tests.harvest_server import Fate, Rule, Script, Server
from tests.harvest_server.clients import CANARY, MODELS, VARIABLE, alone, order, teacher
from tests.harvest_server.vendors import Provider

PROVIDERS: tuple[Provider, ...] = get_args(Provider)
HERE = Policy(Allowed(("127.0.0.1",), loopback=True))
every_provider = pytest.mark.parametrize("provider", PROVIDERS)


async def until_done(adapter: RemoteTeacher, http: httpx.AsyncClient, task: Task) -> list[Progress]:
    """Every poll up to the last."""
    seen: list[Progress] = []
    while not seen or seen[-1].state in ("queued", "running"):
        seen.append(await adapter.poll(http, task))
        await asyncio.sleep(0.02)
    return seen


@every_provider
def test_a_clip_is_ordered_once_watched_and_fetched(provider: Provider, tmp_path: Any) -> None:
    with Server(provider, Script(job_s=0.15)) as server:
        adapter = teacher(server)
        asked = order(provider, parameters={"resolution": "480p"})

        async def life(http: httpx.AsyncClient) -> tuple[list[Progress], bytes]:
            seen = await until_done(adapter, http, await adapter.create(http, asked))
            video = seen[-1].videos[0]
            headers = adapter.auth_headers() if video.headers_needed else None
            async with download_client() as downloads:
                got = await fetch(downloads, video.url, tmp_path, "clip", HERE, headers)
            return seen, got.path.read_bytes()

        seen, clip = alone(life)
        assert {progress.state for progress in seen[:-1]} <= {"queued", "running"}
        assert seen[-1].state == "succeeded"
        assert decode(clip).frames.shape == (16, 64, 64, 3)
        assert server.posts() == {(asked.prompt, asked.seed): 1}
        [post] = server.book.posts
        assert post.model == MODELS[provider]
        assert "480p" in str(post.body)
        # The key goes to the API, and with a download only where the vendor asks for it.
        for request in server.book.requests:
            has_key = any(
                name in request["headers"] for name in ("authorization", "x-goog-api-key")
            )
            assert has_key != request["path"].startswith("/media/")


ENDINGS: dict[str, dict[Provider, State]] = {
    "refused_output": dict.fromkeys(PROVIDERS, "refused_output"),
    "no_videos": dict.fromkeys(PROVIDERS, "refused_output") | {"openai_videos": "succeeded"},
    "failed": dict.fromkeys(PROVIDERS, "failed"),
    "expired": dict.fromkeys(("ark", "openrouter", "veo", "replicate"), "expired")
    | {"dashscope": "unknown"},  # which a person settles, after a day
    "cancelled": dict.fromkeys(
        ("ark", "openrouter", "gemini", "veo", "dashscope", "replicate"), "cancelled"
    ),
}


@every_provider
@pytest.mark.parametrize("ending", ENDINGS)
def test_endings_come_out_in_one_vocabulary(provider: Provider, ending: Any) -> None:
    script = Script(job_s=0, fates=(Fate(ends=ending, text="No.\x1b[31m \u202eRed\nline"),))
    with Server(provider, script) as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> Progress:
            return await adapter.poll(http, await adapter.create(http, order(provider)))

        progress = alone(life)
        assert progress.state == ENDINGS[ending].get(provider, "failed")
        assert not progress.videos or ending == "no_videos"  # OpenAI's shape tells at the download
        if progress.reason is not None:
            assert progress.reason.isprintable()
            assert "\u202e" not in progress.reason


@every_provider
def test_a_refused_prompt_is_an_outcome_of_its_own(provider: Provider) -> None:
    with Server(provider, Script(job_s=0, fates=(Fate(ends="refused_input"),))) as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> str:
            try:
                return (await adapter.poll(http, await adapter.create(http, order(provider)))).state
            except RefusedInputError as error:
                return f"at create: {error}"

        told = alone(life)
        assert told == "refused_input" or told.startswith("at create")
        assert sum(server.posts().values()) == 1


def _at(status: int, body: str = '{"error": {"message": "no"}}', **headers: str) -> Rule:
    return Rule("create", status=status, body=body, headers=headers, times=None)


CREATE_FAULTS: list[tuple[Rule, type[RemoteError]]] = [
    (_at(400), RejectedError),
    (_at(404), RejectedError),
    (_at(422), RejectedError),
    (_at(401), UnauthorisedError),
    (_at(403), UnauthorisedError),
    (_at(402), OutOfCreditError),
    (_at(429), NothingCreatedError),
    (_at(503, "<html>busy</html>"), NothingCreatedError),
    (_at(307, "", Location="https://elsewhere.example/"), RejectedError),
    (_at(302, "", Location="/done"), AmbiguousError),
    (_at(408), AmbiguousError),
    (_at(500), AmbiguousError),
    (_at(502, "<html>Bad gateway</html>"), AmbiguousError),
    (_at(200, "<html>welcome to the hotel's network</html>"), AmbiguousError),
    (_at(200, ""), AmbiguousError),
    (_at(200, "[" * 100_000), AmbiguousError),
    (_at(200, '{"id": "' + "x" * 5_000_000 + '"}'), AmbiguousError),
    (_at(200, '{"id": "a/../../b", "name": "../x", "request_id": 1e400}'), AmbiguousError),
    (_at(200, '{"id": "a\\nb", "request_id": {"a": 1}, "code": 0}'), AmbiguousError),
    (Rule("create", "reset_before", times=None), AmbiguousError),
    (Rule("create", "reset_after", times=None), AmbiguousError),
    (Rule("create", "half", times=None), AmbiguousError),
    (Rule("create", "half_chunked", times=None), AmbiguousError),
    (Rule("create", "hang", times=None), AmbiguousError),
    (Rule("create", "endless", times=None), AmbiguousError),
]


@every_provider
def test_a_create_is_sent_once_and_says_whether_something_may_exist(provider: Provider) -> None:
    with Server(provider) as server:
        adapter = teacher(server)

        async def create(http: httpx.AsyncClient) -> RemoteError | Task:
            try:
                return await adapter.create(http, order(provider))
            except RemoteError as error:
                return error

        async def all_faults(http: httpx.AsyncClient) -> None:
            for rule, kind in CREATE_FAULTS:
                server.rewrite(Script(rules=(rule,)))
                before = len(server.book.posts)
                found = await create(http)
                assert type(found) is kind, (rule, found)
                assert len(server.book.posts) == before + 1
                assert kind.may_have_created == (kind is AmbiguousError)
                _assert_no_secret(str(found), repr(found))

        alone(all_faults, read_s=0.5)


@every_provider
def test_a_lost_answer_did_create_and_a_refused_connection_did_not(provider: Provider) -> None:
    with Server(provider, Script(rules=(Rule("create", "reset_after"),))) as server:
        adapter = teacher(server)
        with pytest.raises(AmbiguousError):
            alone(lambda http: adapter.create(http, order(provider)))
        assert sum(server.jobs().values()) == 1
        server.stop()
        with pytest.raises(NotSentError):
            alone(lambda http: adapter.create(http, order(provider)))


@every_provider
def test_the_pause_that_a_vendor_asks_for(provider: Provider) -> None:
    with Server(provider) as server:
        adapter = teacher(server)

        async def asked(http: httpx.AsyncClient) -> list[float | None]:
            pauses: list[float | None] = []
            in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
            for said in ("7", "99999999999", in_a_minute, "1e3", "-5", "soon", "nan", "9" * 5000):
                server.rewrite(Script(rules=(_at(429, "{}", **{"Retry-After": said}),)))
                with pytest.raises(NothingCreatedError) as caught:
                    await adapter.create(http, order(provider))
                pauses.append(caught.value.retry_after_s)
            return pauses

        exact, capped, date, *nonsense = alone(asked)
        assert (exact, capped, nonsense) == (7, 366 * 86400, [None] * 5)
        assert date is not None
        assert 0 < date <= 60


POLL_FAULTS: list[tuple[Rule, type[RemoteError] | str]] = [
    (Rule("poll", status=500, body="{}", times=None), VendorError),
    (Rule("poll", status=429, body="{}", headers={"Retry-After": "3"}, times=None), VendorError),
    (Rule("poll", status=200, body="<html>", times=None), VendorError),
    (Rule("poll", status=200, body='{"progress": NaN}', times=None), VendorError),
    (Rule("poll", "reset_before", times=None), VendorError),
    (Rule("poll", "half", times=None), VendorError),
    (Rule("poll", "hang", times=None), VendorError),
    (Rule("poll", "endless", times=None), VendorError),
    (Rule("poll", status=302, headers={"Location": "http://10.0.0.1/"}, times=None), VendorError),
    (Rule("poll", status=401, body="{}", times=None), UnauthorisedError),
    (Rule("poll", status=404, body="{}", times=None), "unknown"),
]


@every_provider
def test_trouble_with_a_poll_loses_nothing(provider: Provider) -> None:
    with Server(provider, Script(job_s=0)) as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> None:
            task = await adapter.create(http, order(provider))
            for rule, expected in POLL_FAULTS:
                server.rewrite(Script(rules=(rule,)))
                try:
                    found: Any = (await adapter.poll(http, task)).state
                except RemoteError as error:
                    found = type(error)
                assert found == expected, rule
            server.rewrite(Script())
            assert (await adapter.poll(http, task)).state == "succeeded"

        alone(life, read_s=0.4)


@every_provider
def test_words_out_of_order_and_words_nobody_knows(provider: Provider) -> None:
    words = ("running", "queued", "meditating\x07", "succeeded", "running")
    script = Script(job_s=0, fates=(Fate(states=words),))
    with Server(provider, script) as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> list[str]:
            task = await adapter.create(http, order(provider))
            return [(await adapter.poll(http, task)).state for _ in words]

        queued = "running" if provider == "veo" else "queued"  # an operation has no queue
        unknown = "failed" if provider == "veo" else "unknown"  # nor words: it is done or not
        assert alone(life) == ["running", queued, unknown, "succeeded", "running"]


@pytest.mark.parametrize("provider", ["ark", "openai_videos", "replicate", "kling"])
def test_a_task_whose_answer_was_lost_is_found_again(provider: Provider) -> None:
    with Server(provider, Script(film="constant", job_s=9)) as server:
        adapter = teacher(server)
        assert isinstance(adapter, ListingTeacher)
        ours = order(provider, key="aa" * 32, prompt="ours")
        if ours.seed is not None:
            ours = replace(ours, seed=77)

        async def life(http: httpx.AsyncClient) -> None:
            assert await adapter.find(http, ours) is None
            for number in range(120):  # more than a page of each listing but Kling's
                other = order(provider, key=f"{number:064d}", prompt=f"another {number}")
                await adapter.create(http, other)
            assert await adapter.find(http, ours) is None
            server.rewrite(Script(rules=(Rule("create", "reset_after"),), job_s=9))
            with pytest.raises(AmbiguousError):
                await adapter.create(http, ours)
            for number in range(120, 240):
                other = order(provider, key=f"{number:064d}", prompt=f"another {number}")
                await adapter.create(http, other)
            found = await adapter.find(http, ours)
            assert found is not None
            assert server.book.jobs[found.id].asked.prompt == "ours"
            if provider != "kling":  # whose ids of ours are unique
                assert await adapter.find(http, ours, taken={found.id}) is None
                await adapter.create(http, ours)
                with pytest.raises(VendorError, match="2 tasks"):
                    await adapter.find(http, ours)

        alone(life)


@pytest.mark.parametrize("provider", ["openrouter", "gemini", "veo", "dashscope", "fal"])
def test_a_vendor_without_a_listing_has_no_find(provider: Provider) -> None:
    with Server(provider) as server:
        assert not isinstance(teacher(server), ListingTeacher)


@every_provider
def test_a_key_that_is_missing_or_cannot_be_sent_is_named_by_its_variable(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(provider, Script(key="another")) as server:
        adapter = teacher(server)
        for value in (None, "", "  ", "CANARYAC\nCESS:b", "CANARYAC CESS:b", "CANARYÄ:b", CANARY):
            if value is None:
                monkeypatch.delenv(VARIABLE)
            else:
                monkeypatch.setenv(VARIABLE, value)
            with pytest.raises(UnauthorisedError) as caught:
                alone(lambda http: adapter.create(http, order(provider)))
            assert VARIABLE in str(caught.value) or "401" in str(caught.value)
            _assert_no_secret("".join(traceback.format_exception(caught.value)))
        assert not server.book.posts


@every_provider
def test_a_vendor_that_echoes_the_key_and_its_urls_gets_neither_into_any_text(
    provider: Provider, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a key of an earlier request, where each has a token of its own."""
    logging.basicConfig(level=logging.DEBUG)
    caplog.set_level(logging.DEBUG)
    echo = (
        '{{"error": {{"code": "{0}", "message": "{0} https://x.y/?X-Signature=CANARYSIGNATURE"}},'
    )
    echo += ' "detail": "{0}", "message": "{0}", "status": "{0}", "code": 1201, "id": "{0}"}}'
    told: list[str] = []
    with Server(provider, Script(job_s=0)) as server:
        adapter = teacher(server)
        sent = " ".join(adapter.auth_headers().values()).split()[-1]

        async def life(http: httpx.AsyncClient) -> None:
            task = await adapter.create(http, order(provider))
            done = await adapter.poll(http, task)
            told.append(repr((task, done)))
            monkeypatch.setattr(keys, "_signed", {})
            monkeypatch.setattr(keys, "TOKEN_LIVES_S", 1700)  # the next token is another one
            for secret in (sent, sent.replace("C", "\\u0043")):
                for status in (200, 400, 401, 500):
                    body = echo.format(secret)
                    rules = tuple(
                        Rule(verb, status=status, body=body, times=None)
                        for verb in ("create", "poll", "list")
                    )
                    server.rewrite(Script(job_s=0, rules=rules))
                    asks = [adapter.create(http, order(provider)), adapter.poll(http, task)]
                    if isinstance(adapter, ListingTeacher):
                        asks.append(adapter.find(http, order(provider)))
                    for ask in asks:
                        try:
                            told.append(repr(await ask))
                        except RemoteError as error:
                            told.extend(traceback.format_exception(error))
                            told.append(pickle.dumps(error).decode("latin-1"))
            with pytest.raises(TypeError):
                pickle.dumps(done)

        alone(life)
    _assert_no_secret(*told, caplog.text)
    assert sent not in "".join(told) + caplog.text


def _assert_no_secret(*texts: str) -> None:
    for text in texts:
        assert "CANARY" not in text


def test_fal_is_asked_nowhere_but_on_its_own_host() -> None:
    with Server("fal") as fal, Server("fal") as evil:
        adapter = teacher(fal)
        stolen = f'{{"request_id": "r1", "status_url": "{evil.url}/a/b/requests/r1/status"}}'
        fal.rewrite(Script(rules=(Rule("create", status=200, body=stolen),)))

        async def life(http: httpx.AsyncClient) -> None:
            task = await adapter.create(http, order("fal"))
            assert (await adapter.poll(http, task)).vendor_state == "404"
            with pytest.raises(VendorError):
                await adapter.poll(http, Task("r1"))

        alone(life)
        assert not evil.book.requests


def test_kling_gets_a_fresh_token_each_time_that_its_secret_signed() -> None:
    import base64
    import hashlib
    import hmac
    import json

    with Server("kling") as server:
        head, claims, signature = teacher(server).auth_headers()["Authorization"][7:].split(".")
    access, _, secret = CANARY.partition(":")
    read = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert read["iss"] == access
    assert read["nbf"] < datetime.now(UTC).timestamp() < read["exp"]
    expected = hmac.new(secret.encode(), f"{head}.{claims}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == expected


@every_provider
def test_a_prompt_that_cannot_be_written_is_never_sent(provider: Provider) -> None:
    with Server(provider) as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> None:
            for changes in ({"prompt": "half a pair \ud800"}, {"parameters": {"x": float("nan")}}):
                if provider == "openai_videos" and "parameters" in changes:
                    continue  # a form has texts, and "NaN" is one
                with pytest.raises(RejectedError, match="not sent"):
                    await adapter.create(http, order(provider, **changes))

        alone(life)
        assert not server.book.requests


@every_provider
def test_prompts_arrive_as_they_are(provider: Provider) -> None:
    lines = 'quotes " and \\ and \n\r\n--boundary'
    prompts = ["${oc.env:HOME}", lines, "赤いボール 🎈", "\x00\x07"]
    with Server(provider) as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> None:
            for prompt in prompts:
                await adapter.create(http, order(provider, prompt=prompt))

        alone(life)
        assert [asked.prompt for asked in server.book.posts] == prompts


def test_a_key_that_expires_is_printed_anew_by_a_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("AFD_TEST_TOKEN", raising=False)
    token = tmp_path / "token"
    token.write_text("ya29.first")
    monkeypatch.setenv("AFD_TEST_TOKEN_COMMAND", f"cat {token}")
    veo = Veo("https://generativelanguage.googleapis.com/v1beta", "AFD_TEST_TOKEN")
    assert veo.auth_headers() == {"Authorization": "Bearer ya29.first"}
    token.write_text("ya29.second")
    assert veo.auth_headers() == {"Authorization": "Bearer ya29.first"}  # two minutes long
    monkeypatch.setattr(keys, "FRESH_S", 0.0)
    assert veo.auth_headers() == {"Authorization": "Bearer ya29.second"}
    for command in (f"cat {tmp_path}/CANARY", "false", "CANARY-no-such-program", "echo 'CANARY"):
        monkeypatch.setenv("AFD_TEST_TOKEN_COMMAND", command)
        with pytest.raises(UnauthorisedError, match="AFD_TEST_TOKEN_COMMAND") as caught:
            veo.auth_headers()
        _assert_no_secret(str(caught.value))


@pytest.mark.parametrize("provider", ["ark", "openai_videos", "replicate"])
def test_what_was_made_before_the_order_is_not_taken_for_it(provider: Provider) -> None:
    """Another store with the same prompts and seeds has used this account last week."""
    with Server(provider, Script(job_s=9)) as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> None:
            assert isinstance(adapter, ListingTeacher)
            now = time.time()
            old = await adapter.create(http, order(provider))
            assert await adapter.find(http, order(provider), since_s=now) == old
            server.book.jobs[old.id].created -= 1200
            assert await adapter.find(http, order(provider), since_s=now) is None
            server.rewrite(Script(rules=(Rule("create", "reset_after"),), job_s=9))
            with pytest.raises(AmbiguousError):
                await adapter.create(http, order(provider))
            found = await adapter.find(http, order(provider), since_s=now)
            assert found is not None
            assert found != old

        alone(life)


def test_what_replicate_has_forgotten_is_not_said_to_be_missing() -> None:
    with Server("replicate") as server:
        adapter = teacher(server)

        async def life(http: httpx.AsyncClient) -> None:
            task = await adapter.create(http, order("replicate"))
            sent_at = server.book.jobs[task.id].created = time.time() - 7200
            with pytest.raises(VendorError, match="removed"):
                await adapter.find(http, order("replicate"), since_s=sent_at)
            assert await adapter.find(http, order("replicate"), {task.id}, sent_at) is None

        alone(life)
