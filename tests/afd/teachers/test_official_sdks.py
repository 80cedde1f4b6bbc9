"""The scripted vendor held against the vendors' own SDKs: `pip install -e .[sdk]`, else skipped."""

import warnings
from typing import Any

import httpx
import pytest

from tests.harvest_server import Fate, Script, Server
from tests.harvest_server.clients import MODELS
from tests.harvest_server.vendors import Provider

PROMPT = "a red ball"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def sdk(name: str) -> Any:
    """Return an SDK, or skip the test with words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = f"no {name}: pip install -e .[sdk]"
        return pytest.importorskip(name, reason=reason, exc_type=ImportError)


def through_openai(server: Server) -> tuple[str, bytes]:
    client = sdk("openai").OpenAI(base_url=server.base_url, api_key="k", max_retries=0)
    made = client.videos.create(model=MODELS["openai_videos"], prompt=PROMPT, seconds="4")
    assert made.status in ("queued", "completed")
    found = client.videos.retrieve(made.id)
    assert [video.id for video in client.videos.list()] == [made.id]
    film = client.videos.download_content(made.id).read() if found.status == "completed" else b""
    return found.status, film


def through_replicate(server: Server) -> tuple[str, bytes]:
    client = sdk("replicate").Client(api_token="k", base_url=server.url)
    made = client.models.predictions.create(MODELS["replicate"], input={"prompt": PROMPT})
    made.reload()
    assert [one.id for one in client.predictions.list().results] == [made.id]
    film = httpx.get(made.output).content if made.status == "succeeded" else b""
    return made.status, film


def through_dashscope(server: Server) -> tuple[str, bytes]:
    dashscope = sdk("dashscope")
    dashscope.base_http_api_url = server.base_url
    made = dashscope.VideoSynthesis.async_call(
        api_key="k", model=MODELS["dashscope"], prompt=PROMPT, duration=5
    )
    assert made.status_code == 200, made
    found = dashscope.VideoSynthesis.fetch(made, api_key="k")
    is_done = found.output.task_status == "SUCCEEDED"
    return found.output.task_status, httpx.get(found.output.video_url).content if is_done else b""


def through_gemini(server: Server) -> tuple[str, bytes]:
    genai = sdk("google.genai")
    options = {"base_url": server.url, "api_version": "v1beta"}
    client = genai.Client(api_key="k", http_options=options)
    made = client.interactions.create(
        model=MODELS["gemini"],
        input=PROMPT,
        background=True,
        response_format=[{"type": "video", "duration": "5s", "delivery": "uri"}],
    )
    found = client.interactions.get(made.id)
    if found.status != "completed":
        return found.status, b""
    [film] = found.steps[-1].content
    return found.status, httpx.get(film.uri, headers={"x-goog-api-key": "k"}).content


def through_fal(server: Server) -> tuple[str, bytes]:
    fal_client = sdk("fal_client")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fal_client.client.QUEUE_URL_FORMAT", f"{server.url}/")
        handle = fal_client.SyncClient(key="k").submit(MODELS["fal"], {"prompt": PROMPT})
        status = type(handle.status()).__name__
        try:
            film = httpx.get(handle.get()["video"]["url"]).content
        except (fal_client.FalClientHTTPError, fal_client.FalClientError):
            return "failed", b""
    return status, film


THROUGH = {
    "openai_videos": (through_openai, "completed", "failed"),
    "replicate": (through_replicate, "succeeded", "failed"),
    "dashscope": (through_dashscope, "SUCCEEDED", "FAILED"),
    "gemini": (through_gemini, "completed", "failed"),
    "fal": (through_fal, "Completed", "failed"),
}


@pytest.mark.parametrize("provider", THROUGH)
def test_an_sdk_creates_polls_and_fetches(provider: Provider) -> None:
    through, done, failed = THROUGH[provider]
    with Server(provider, Script(job_s=0, film="constant")) as server:
        status, film = through(server)
        assert status == done
        assert film[4:8] == b"ftyp"
        server.rewrite(Script(job_s=0, fates=(Fate(ends="failed"),)))
        server.book.jobs.clear()
        assert through(server) == (failed, b"")
