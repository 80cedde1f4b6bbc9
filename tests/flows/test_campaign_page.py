"""The campaign page: in a real Chromium, from its file and from its server, while rounds come."""

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from afd.campaign_page.compose import write_page
from afd.campaign_page.request import FILM, PageRequest
from flows.campaign_page import PageWriter, page_request, read_request
from flows.commands.page_server import served
from flows.inputs import chosen_cluster
from flows.last_command import LastCommand, write_last_command
from flows.params_source import ParamsSource
from flows.paths import CampaignPaths, save_params
from tests.flows.campaign_on_disk import SENTENCES, CampaignOnDisk, make_campaign, small_params
from tests.flows.conftest import CLUSTER

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHANGED = ("num_rounds=3",)
pytestmark = pytest.mark.timeout(600)
FRAMES_MOVE = """async () => {
  const clip = document.querySelector("#clips video");
  const start = clip.currentTime;
  for (let i = 0; i < 300 && (clip.readyState < 2 || clip.currentTime === start); i++)
    await new Promise(done => setTimeout(done, 100));
  return [clip.readyState, clip.videoWidth, clip.currentTime !== start, clip.paused];
}"""


@dataclass
class PageOnDisk:
    """A campaign of three rounds; its page may show fewer."""

    campaign: CampaignOnDisk
    uri: str

    @property
    def file(self) -> Path:
        return self.campaign.folder / "index.html"

    def request(self, state: str, num_rounds: int = 3) -> PageRequest:
        """The page as after `num_rounds` rounds."""
        _leave_rounds(self.campaign, num_rounds, is_final=state == "finished")
        folder, store = self.campaign.folder, self.campaign.store.root
        return page_request(folder, store, self.campaign.params, self.uri, state)

    def write(self, state: str, num_rounds: int = 3) -> None:
        write_page(self.request(state, num_rounds))


def _leave_rounds(campaign: CampaignOnDisk, num_rounds: int, *, is_final: bool) -> None:
    """rounds/*.json as a campaign leaves them after so many rounds."""
    folder = campaign.folder / "rounds"
    folder.mkdir(parents=True, exist_ok=True)
    of_start = [a for a in campaign.of_round(None) if a.manifest.stage == "harvest"]
    made: dict[str, dict[str, Any]] = {
        "start": {"held_out_clips": of_start[0].ref},
        **{f"{n:03d}": one for n, one in enumerate(campaign.rounds[:num_rounds])},
    }
    if is_final and campaign.evaluation is not None:
        made["final"] = {"evaluation": campaign.evaluation.ref}
    for file in folder.glob("*.json"):
        file.unlink()
    for name, refs in made.items():
        content = {role: ref.model_dump() for role, ref in refs.items()}
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> PageOnDisk:
    root = tmp_path_factory.mktemp("page")
    params = small_params().model_copy(update={"num_rounds": 3})
    campaign = make_campaign(root, params, num_rounds=3)
    campaign.folder.mkdir(parents=True)
    save_params(campaign.folder, params)
    ParamsSource.of("params/pocket.yaml", (), CHANGED, params).write(campaign.folder)
    (campaign.folder / "lineage").mkdir()
    ids = {"experiment_id": "1", "run_id": "f" * 32}
    (campaign.folder / "lineage" / "campaign.json").write_text(json.dumps(ids))
    return PageOnDisk(campaign, f"sqlite:///{root}/mlflow.db")


@pytest.fixture
def finished(on_disk: PageOnDisk) -> PageOnDisk:
    on_disk.write("finished")
    return on_disk


def test_a_page_has_what_a_person_looks_for(finished: PageOnDisk) -> None:
    text = finished.file.read_text()
    for said in (
        "seed 1",
        "num_rounds: 8 &rarr; 3",
        "params/pocket.yaml",
        f"http://127.0.0.1:5000/#/experiments/1/runs/{'f' * 32}",
        f"afd show {finished.campaign.rounds[0]['student'].short}",
        "83 % lower than the base, better",
        "lower is better",
    ):
        assert said in text, said
    assert "not estimable" not in text


def test_films_of_rounds_that_are_there_are_not_made_again(on_disk: PageOnDisk) -> None:
    on_disk.write("running", 2)
    beside = on_disk.campaign.folder / "page"
    before = {file: file.stat().st_mtime_ns for file in beside.glob("round001-*.mp4")}
    on_disk.write("finished", 3)
    assert len(before) == len(SENTENCES)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    films = [file.name for file in beside.glob("*.mp4")]
    assert len(films) == 3 * len(SENTENCES)
    assert all(FILM.fullmatch(name) for name in films)  # the server serves what the page shows


def test_an_equal_page_is_not_asked_for_again(finished: PageOnDisk) -> None:
    assert read_request(finished.campaign.folder) == finished.request("finished")
    assert read_request(finished.campaign.folder) != finished.request("running")


def test_a_finished_campaign_typed_again_ends_as_finished(finished: PageOnDisk) -> None:
    """The page of a start may still be on its way when the campaign ends as it began."""
    campaign = finished.campaign
    writer = PageWriter(campaign.folder, campaign.store.root, campaign.params, finished.uri)
    writer.write("running")
    writer.close("finished")
    deadline = time.monotonic() + 120
    while read_request(campaign.folder) != finished.request("finished"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)  # nothing is written after it
    assert read_request(campaign.folder) == finished.request("finished")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_on_any_screen(
    finished: PageOnDisk, browser: "Browser", axe: str, width: int, scheme: Any
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(finished.file.as_uri())
    for summary in page.locator("summary").all():
        summary.click()
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    assert [(one["id"], one["nodes"][0]["failureSummary"]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.mark.browser
def test_clips_play_and_the_slider_works_by_keyboard(
    finished: PageOnDisk, browser: "Browser"
) -> None:
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(finished.file.as_uri())
    assert page.locator("#clips video").count() == len(SENTENCES)
    ready, width, moves, paused = page.evaluate(FRAMES_MOVE)
    assert ready >= 2 and width > 3 * 192 and moves and not paused
    slider = page.get_by_role("slider", name="Round")
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "after round 0"
    assert "trajectory error" in page.locator("#round-said").inner_text()
    shown = page.locator("#clips video").first
    assert "page/round000-" in str(shown.get_attribute("src"))
    page.keyboard.press("ArrowRight")
    assert "page/round001-" in str(shown.get_attribute("src"))
    assert page.evaluate(FRAMES_MOVE)[2]
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#pause").inner_text() == "Play"
    assert shown.evaluate("clip => clip.paused")
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    page.close()


@pytest.mark.browser
def test_nothing_moves_for_whoever_wants_no_motion(
    finished: PageOnDisk, browser: "Browser"
) -> None:
    page = browser.new_page(reduced_motion="reduce")
    page.goto(finished.file.as_uri())
    page.wait_for_function("document.querySelector('#clips video').readyState >= 2")
    assert page.locator("#clips video").first.evaluate("clip => clip.paused")
    assert page.locator("#pause").inner_text() == "Play"
    page.close()


@pytest.mark.browser
def test_a_running_page_reloads_after_a_round_and_a_finished_one_does_not(
    on_disk: PageOnDisk, browser: "Browser"
) -> None:
    on_disk.write("running", 1)
    page = browser.new_page()
    page.goto(on_disk.file.as_uri())
    page.get_by_text("1 of 3 rounds done").wait_for()
    on_disk.write("running", 2)
    page.get_by_text("2 of 3 rounds done").wait_for(timeout=60_000)
    on_disk.write("finished", 3)
    page.get_by_text("3 rounds", exact=True).wait_for(timeout=60_000)
    assert page.locator("#follow").count() == 0
    page.close()


@pytest.mark.browser
def test_the_server_shows_pages_and_no_other_file(
    finished: PageOnDisk, browser: "Browser", axe: str
) -> None:
    folder = finished.campaign.folder
    write_last_command(folder, _asked(finished))
    (folder / "summary.json").write_text((_final(finished) / "summary.json").read_text())
    (folder / "page" / "link.mp4").symlink_to(folder / "params.yaml")
    with served(CampaignPaths(folder.parent), "http://127.0.0.1:5999", 0) as address:
        page = browser.new_page()
        page.goto(address)
        page.evaluate(axe)
        assert page.evaluate("axe.run()")["violations"] == []
        assert "trajectory error 0.600 px" in page.locator("main").inner_text()
        page.get_by_role("link", name="demo").click()
        assert page.evaluate(FRAMES_MOVE)[2]
        link = page.get_by_role("link", name="MLflow run")
        assert str(link.get_attribute("href")).startswith("http://127.0.0.1:5999/#/")
        page.close()
        for path in ("demo/params.yaml", "demo/page/request.json", "demo/page/link.mp4",
                     "demo/%2e%2e/demo/params.yaml", "demo/..%2fdemo%2fparams.yaml", "other/",
                     "demo/rounds/000.json"):  # fmt: skip
            assert _status(f"{address}/{path}") == 404, path
        assert _status(f"{address}/demo/") == 200
        assert _status(f"{address}/demo/", host="evil.example") == 400


def _asked(page: PageOnDisk) -> LastCommand:
    return LastCommand(
        kind="campaign",
        round_index=None,
        cluster=chosen_cluster(CLUSTER),
        store=str(page.campaign.store.root),
        with_prefect=False,
        state="finished",
    )


def _final(page: PageOnDisk) -> Path:
    assert page.campaign.evaluation is not None
    return page.campaign.evaluation.path


def _status(url: str, host: str | None = None) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
