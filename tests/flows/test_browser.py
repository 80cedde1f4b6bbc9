"""What people look at, in a real headless Chromium: MLflow's pages and the report."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from afd.stages import requests
from afd.stages.execute import execute
from flows import dvc_tracking
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds
from flows.mlflow_runs.runs import CampaignRuns
from tests.flows.campaign_on_disk import CampaignOnDisk, make_campaign, small_params

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
# What MLflow's own page says on every server without a user database, and on every resize.
OF_MLFLOW = re.compile(r"users/current|ResizeObserver loop")
PATIENCE_MS = 60_000
PLAYS = """async video => {
  video.muted = true;
  await video.play();
  const start = video.currentTime;
  await new Promise(done => setTimeout(done, 700));
  return [video.readyState, video.videoWidth, video.currentTime - start];
}"""
LOADED = "images => images.map(image => [image.complete, image.naturalWidth])"


@dataclass(frozen=True)
class Shown:
    """A recorded campaign, its report, and the address of the MLflow that shows it."""

    campaign: CampaignOnDisk
    report: Path
    address: str
    ids: RunIds

    def run_page(self, key: str, tab: str = "") -> str:
        """The address of a run's page, in the model-training view."""
        experiment = self.ids.read(CAMPAIGN)["experiment_id"]
        run_id = self.ids.read(key)["run_id"]
        where = f"#/experiments/{experiment}/runs/{run_id}{tab}"
        return f"{self.address}/{where}?workflowType=machine_learning"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, browser: "Browser") -> Iterator[Shown]:
    root = tmp_path_factory.mktemp("shown")
    campaign = make_campaign(root, small_params(), num_rounds=3)
    assert campaign.evaluation is not None
    request = requests.report(campaign.params, campaign.evaluation.ref, campaign.rounds)
    report = execute(request, campaign.store)
    campaign.made.append((None, request, report))
    database = root / "runs" / ".services" / "mlflow" / "mlflow.db"
    campaign.write_folder()
    runs = CampaignRuns(f"sqlite:///{database}", campaign.folder, campaign.store)
    runs.sync(status="finished")
    with Served(database, root / "server.log") as address:
        yield Shown(campaign, report.file("report.html"), address, runs.ids)


class Served:
    """`mlflow server` on a database, until the block ends."""

    def __init__(self, database: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.database, self.log = database, log

    def __enter__(self) -> str:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.database}"]
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        address = f"http://127.0.0.1:{self.port}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + 180
        while True:
            try:
                opener.open(f"{address}/health", timeout=5).close()
                return address
            except OSError:
                alive = self.process.poll() is None and time.monotonic() < deadline
                assert alive, self.log.read_text()
                time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(30)


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    """A page that fails the test for anything it complains about, but what MLflow always says."""
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    opened.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    opened.on(
        "console",
        lambda said: (
            complaints.append(f"{said.text} {said.location}") if said.type == "error" else None
        ),
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    opened.close()
    assert [said for said in complaints if not OF_MLFLOW.search(said)] == []


def visit(page: "Page", address: str) -> None:
    """A fresh load: MLflow's addresses differ behind the #, which alone reloads nothing."""
    page.goto("about:blank")
    page.goto(address)


def assert_loaded(images: list[list[object]]) -> None:
    assert images and all(complete and width for complete, width in images), images


def test_the_report_opens_from_its_file_alone(shown: Shown, page: "Page", tmp_path: Path) -> None:
    alone = tmp_path / "report.html"
    shutil.copy(shown.report, alone)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(alone.as_uri())
    page.wait_for_load_state("load")
    assert_loaded(page.eval_on_selector_all("img", LOADED))
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    ready, width, played = page.eval_on_selector("video", PLAYS)
    assert ready >= 2 and width > 0 and played > 0
    rows = page.locator("table.results tbody tr")
    assert rows.count() == 5
    assert "83 % lower than the base, better" in rows.nth(0).inner_text()
    assert page.locator("script").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1400])
def test_the_report_fits_every_screen(
    shown: Shown, browser: "Browser", width: int, scheme: str
) -> None:
    page = browser.new_page(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page.goto(shown.report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    ink, ground = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (ink > ground) == (scheme == "dark") and abs(ink - ground) > 400
    page.close()


def test_the_campaigns_page_shows_params_curves_sheets_and_the_way_down(
    shown: Shown, page: "Page"
) -> None:
    visit(page, shown.run_page(CAMPAIGN))
    page.get_by_role("heading", name="demo").wait_for()
    page.get_by_role("link", name="round 2").wait_for()
    page.get_by_text("student.codec.frames", exact=True).first.wait_for()
    page.get_by_text("held-out prompts, after 3 rounds").first.wait_for()  # in words
    page.get_by_text("final/trajectory_error_px", exact=True).first.wait_for()
    visit(page, shown.run_page(CAMPAIGN, "/model-metrics"))
    page.get_by_text("trajectory_error_px").first.wait_for()
    page.locator("svg.main-svg").first.wait_for()


def test_a_rounds_page_shows_the_clips_of_its_student(shown: Shown, page: "Page") -> None:
    visit(page, shown.run_page("round_001", "/model-metrics"))
    page.get_by_placeholder("Search metric charts").fill("students")
    page.wait_for_function(
        "[...document.images].some(i => /get-artifact|^blob:/.test(i.src) && i.naturalWidth > 0)"
    )


def test_a_stages_page_shows_its_inputs_with_their_dvc_digests(shown: Shown, page: "Page") -> None:
    update = [(r, a) for _, r, a in shown.campaign.made if r.stage == "update"][-1]
    visit(page, shown.run_page(update[1].ref.fingerprint[:16]))
    page.get_by_role("heading", name="update 2").wait_for()
    page.get_by_text(re.compile(r"\([0-9a-f]{32}\.dir\)")).first.wait_for()
    page.get_by_role("link", name="demo-student").wait_for()
    text = page.locator("body").inner_text()
    shown_digest = re.search(r"([0-9a-f]{32}\.dir)", text)
    assert shown_digest is not None
    behind = [shown.campaign.store.load(ref) for ref in update[0].inputs.values()]
    assert shown_digest[1] in {dvc_tracking.digest(artifact) for artifact in behind}


def test_pictures_load_and_films_play_in_mlflow(shown: Shown, page: "Page") -> None:
    assert shown.campaign.evaluation is not None
    key = shown.campaign.evaluation.ref.fingerprint[:16]
    visit(page, shown.run_page(key, "/artifacts/filmstrips/0.png"))
    picture = page.locator("img[src^='blob:'], img[src*='get-artifact']").first
    picture.wait_for()
    page.wait_for_function("[...document.images].some(image => image.naturalWidth === 512)")
    visit(page, shown.run_page(key, "/artifacts/samples.mp4"))
    film = page.locator("video").first
    film.wait_for()
    ready, width, played = film.evaluate(PLAYS)
    assert ready >= 2 and width > 0 and played > 0


def test_the_report_opens_in_mlflows_artifact_view(shown: Shown, page: "Page") -> None:
    visit(page, shown.run_page(CAMPAIGN, "/artifacts/report.html"))
    frame = page.frame_locator("iframe").first
    frame.locator("h1").wait_for()
    frame.locator("figure img").first.wait_for()
    assert_loaded(frame.locator("img").evaluate_all(LOADED))
    ready, width, played = frame.locator("video").evaluate(PLAYS)
    assert ready >= 2 and width > 0 and played > 0


def test_the_registry_shows_the_champion(shown: Shown, page: "Page") -> None:
    visit(page, f"{shown.address}/#/models/demo-student")
    page.get_by_text("champion").first.wait_for()
    page.get_by_text("The students of campaign demo").first.wait_for()
    champion = shown.ids.read(CAMPAIGN)["champion"]
    visit(page, f"{shown.address}/#/models/demo-student/versions/{champion}")
    page.get_by_text("afd.fingerprint").first.wait_for()
    best = [a for _, r, a in shown.campaign.made if r.stage == "update"][-1]
    assert best.ref.fingerprint[:30] in page.locator("body").inner_text()
    assert json.loads(best.path.joinpath("manifest.json").read_bytes())["stage"] == "update"
