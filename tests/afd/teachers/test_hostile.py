"""Whatever JSON a vendor answers with, an adapter ends in one of its own types, and sound ones."""

import asyncio
import json
import math
import pickle
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, get_args
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afd.harvest.http import client
from afd.teachers.vendors import sanitise
from afd.teachers.vendors.decompress import Unpacker, UnpackError
from afd.teachers.vendors.protocol import ListingTeacher, Progress, RemoteError, State, Task
from tests.harvest_server import Rule, Script, Server
from tests.harvest_server.clients import order, teacher
from tests.harvest_server.vendors import Provider

# Words that adapters look for, so that examples get past the first question.
FIELDS = re.findall(
    r"\w+",
    "id name request_id task_id data code status state task_status error message detail content "
    "video_url video videos url uri output response generateVideoResponse generatedSamples "
    "raiMediaFilteredReasons done usage completion_tokens seconds seed model version input metrics "
    "task_result task_status_msg items results next has_more data_removed status_url type loc",
)
WORDS = re.findall(
    r"\S+",
    "queued running succeeded completed failed cancelled expired COMPLETED IN_QUEUE succeed "
    "in_progress processing job-1 models/m/operations/1 ../../etc/passwd https://a.b/c "
    "http://user:pw@10.0.0.1/ file:///etc/passwd javascript:alert(1) \ud800 \x1b[2J \u202etxt",
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 10**400, -(10**30), 2**63])
    | st.floats(allow_nan=False)
    | st.text(max_size=30)
    | st.sampled_from(WORDS)
)
answers = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6)
    ),
    max_leaves=25,
)
objects = st.dictionaries(st.sampled_from(FIELDS), answers, max_size=10)
EVERY = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@contextmanager
def asking(provider: Provider) -> Iterator[Any]:
    """A vendor, its adapter and a client that live through all examples."""
    with Server(provider) as server, asyncio.Runner() as runner:
        http = client()
        try:
            yield server, teacher(server), runner, http
        finally:
            runner.run(http.aclose())


def assert_sound(progress: Progress) -> None:
    """What the engine relies on."""
    assert progress.state in get_args(State)
    assert (progress.state == "succeeded") == bool(progress.videos)
    for text in (progress.vendor_state, progress.reason, progress.model):
        assert text is None or (text.isprintable() and len(text) <= 300)
        json.dumps(text).encode().decode("ascii")
        assert text is None or text.encode()  # no lone surrogates: a database refuses them
    for video in progress.videos:
        url = video.url.get_secret_value()
        assert url.startswith(("https://", "http://"))
        assert url.isascii()
        assert " " not in url
        httpx.URL(url)
    if progress.usage is not None:
        for number in (progress.usage.usd, progress.usage.tokens, progress.usage.seconds):
            assert number is None or (math.isfinite(number) and 0 <= number < 1e16)
    assert progress.seed is None or -(2**63) <= progress.seed < 2**63


@pytest.mark.parametrize("provider", get_args(Provider))
def test_any_answer_to_a_poll(provider: Provider) -> None:
    with asking(provider) as (server, adapter, runner, http):
        task = runner.run(adapter.create(http, order(provider)))

        @EVERY
        @given(body=objects, status=st.sampled_from([200, 200, 200, 202, 400, 404, 422, 500]))
        def check(body: Any, status: int) -> None:
            said = json.dumps({"id": task.id, **body})
            server.rewrite(Script(rules=(Rule("poll", status=status, body=said, times=None),)))
            try:
                assert_sound(runner.run(adapter.poll(http, task)))
            except RemoteError as error:
                assert str(error).isprintable()
                assert pickle.loads(pickle.dumps(error)).text == error.text

        check()


@pytest.mark.parametrize("provider", get_args(Provider))
def test_any_answer_to_a_create_and_to_a_listing(provider: Provider) -> None:
    with asking(provider) as (server, adapter, runner, http):

        @EVERY
        @given(body=answers | objects, status=st.sampled_from([200, 200, 201, 400, 429, 500]))
        def check(body: Any, status: int) -> None:
            said = json.dumps(body)
            rules = tuple(
                Rule(verb, status=status, body=said, times=None) for verb in ("create", "list")
            )
            server.rewrite(Script(rules=rules))
            before = len(server.book.posts)
            asks: list[Coroutine[Any, Any, Task | None]] = [adapter.create(http, order(provider))]
            if isinstance(adapter, ListingTeacher):
                asks.append(adapter.find(http, order(provider)))
            for ask in asks:
                try:
                    found = runner.run(ask)
                except RemoteError as error:
                    assert str(error).isprintable()
                else:
                    if found is not None:
                        assert_polls_at_home(found, server.base_url)
            assert len(server.book.posts) == before + 1

        check()


def assert_polls_at_home(task: Task, base_url: str) -> None:
    """An id that is safe in a path, and a URL that stays with the vendor."""
    parts = task.id.split("/")
    assert all(part and part.strip(".") and part.isascii() for part in parts)
    assert "\n" not in task.id
    if task.poll_url is not None:
        assert sanitise.same_origin(task.poll_url.get_secret_value(), base_url)


@given(st.text())
def test_a_cleaned_text_is_one_short_line_and_cleaning_it_again_changes_nothing(text: str) -> None:
    line = sanitise.clean(text)
    assert line.isprintable()
    assert len(line) <= sanitise.MAX_TEXT
    assert line == sanitise.clean(line)
    assert "://" not in sanitise.clean(f"see https://a.b/{text}?sig=1")
    signed = ("//b.host/v.mp4?X-Sig=CANARY", "/b/v.mp4?a=1&Signature=CANARY", "Signature=CANARY")
    for url in signed:  # without scheme or host
        assert "CANARY" not in sanitise.clean(f"GET {url} failed")


@given(st.binary(max_size=300), st.integers(1, 50))
def test_unpacking_is_what_gzip_does_whatever_the_pieces(data: bytes, size: int) -> None:
    import gzip

    packed = gzip.compress(data)
    unpacker = Unpacker("gzip")
    pieces = [packed[start : start + size] for start in range(0, len(packed), size)]
    assert b"".join(part for piece in pieces for part in unpacker.unpack(piece)) == data
    unpacker.finish()
    cut = Unpacker("gzip")
    assert data.startswith(b"".join(cut.unpack(packed[: len(packed) // 2])))
    with pytest.raises(UnpackError):
        cut.finish()


def test_nothing_is_gathered_behind_the_end_of_a_compressed_body() -> None:
    """zlib keeps what follows, and a body without end would fill the memory past every cap."""
    import gzip

    unpacker = Unpacker("gzip")
    assert b"".join(unpacker.unpack(gzip.compress(b"all of it"))) == b"all of it"
    unpacker.finish()
    with pytest.raises(UnpackError, match="behind the end"):
        list(unpacker.unpack(bytes(1 << 20)))


def test_a_key_is_hidden_however_it_was_encoded() -> None:
    for key in ("sk/S3CR+Ez%yes6==xyzw", "sk-proj_ABCDEFGH1234", "a1b2c3d4e5f6"):
        percent = quote(key, safe="")
        lower = re.sub("%..", lambda found: found[0].lower(), percent)
        escaped = re.sub(r"\W", lambda found: f"\\u{ord(found[0]):04X}", key)
        forms = [key, percent, lower, quote(percent), quote(key), escaped, key.replace("/", r"\/")]
        for encoded in (b64encode, urlsafe_b64encode):
            whole = encoded(key.encode()).decode()
            forms += [whole, whole.rstrip("="), quote(whole, safe=""), whole.replace("/", r"\/")]
            forms.append(encoded(f"{key}:".encode()).decode())  # as HTTP's Basic has it
        for form in forms:
            shown = sanitise.clean(f"no such key ({form}), sorry", (key,))
            assert shown == "no such key (***), sorry"
            said = json.dumps({"error": {"message": f"key {form}."}}).encode()
            told = sanitise.parse(said, (key,))["error"]["message"]
            assert told == "key ***."
    assert sanitise.hide("Bear with us: beared, c2stcHJv", ("sk-proj_ABC",)).endswith("c2stcHJv")
