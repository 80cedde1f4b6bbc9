"""Prefect as people use it after `afd up`: pages in a real Chromium, commands, states and logs."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from afd.stages import requests
from afd.store import Store
from flows.commands.operate import start_services
from flows.last_command import FILE as ASKED
from flows.prefect_runs import pages
from flows.prefect_runs.pages import progress_artifact
from tests.flows.campaign_on_disk import small_params
from tests.flows.here import PATIENCE_S, Here, services

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from prefect.client.schemas.objects import FlowRun

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(900)]
NAME = "shown"
PATIENCE_MS = 60_000
# Pictures that Prefect's own package does not have, and its graph's drawing loop, which goes on for
# a moment after its page was left. Nothing of the API is left out.
OF_PREFECT = re.compile(r"/favicon\.ico|/ico/undefined\.svg|of null \(reading '(scale|position)'\)")


@dataclass(frozen=True)
class Seen:
    """A folder after `afd up`, with a finished campaign of one round and a refused round."""

    here: Here
    campaign: "FlowRun"
    round: "FlowRun"
    refused: "FlowRun"
    asked_before: bytes

    @property
    def folder(self) -> Path:
        return self.here.paths.runs / NAME

    def page(self, path: str) -> str:
        return self.here.up.api.removesuffix("/api") + path

    def logs(self, run: "FlowRun") -> str:
        return self.prefect("flow-run", "logs", str(run.id))

    def prefect(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.here.folder,
            env=self.here.environment | {"COLUMNS": "300"},
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with services(tmp_path_factory.mktemp("seen")) as here:
        quick = replace(here, chosen=("num_rounds=1",))
        quick.deploy(NAME)
        campaign = ended(here, "afd-campaign")
        assert campaign.state_name == "Completed", campaign.state
        asked_before = (here.paths.runs / NAME / ASKED).read_bytes()
        quick.deploy(NAME, "afd/round")
        refused = ended(here, "afd")
        (inner,) = [one for one in runs_of(here) if one.parent_task_run_id is not None]
        yield Seen(here, campaign, inner, refused, asked_before)


def runs_of(here: Here) -> "list[FlowRun]":
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(here.up.api) as client:
        return client.read_flow_runs(limit=50)


def ended(here: Here, flow: str) -> "FlowRun":
    """The only run of a deployment of that flow, when it has ended."""
    from prefect.client.orchestration import SyncPrefectClient

    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with SyncPrefectClient(here.up.api) as client:
            for run in client.read_flow_runs(limit=50):
                is_final = run.state is not None and run.state.is_final()
                if run.deployment_id and is_final and client.read_flow(run.flow_id).name == flow:
                    return run
        time.sleep(0.5)
    raise AssertionError((here.paths.runs / ".services" / "up.log").read_text())


def artifacts_of(here: Here, run_id: UUID) -> dict[str, Any]:
    """What a run left, by key."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import (
        ArtifactFilter,
        ArtifactFilterFlowRunId,
    )

    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    with SyncPrefectClient(here.up.api) as client:
        return {str(one.key): one for one in client.read_artifacts(artifact_filter=mine)}


def test_a_refused_round_changes_nothing_and_is_no_traceback(seen: Seen) -> None:
    state = seen.refused.state
    assert state is not None
    assert state.name == "Refused" and state.is_failed()
    assert state.message == (
        f"round 1: campaign {NAME!r} has rounds 0 to 0; all of them are finished"
    )
    log = seen.logs(seen.refused)
    assert "goes on with what is left" in log
    assert "Traceback" not in log
    assert (seen.folder / ASKED).read_bytes() == seen.asked_before
    typed = seen.here.afd("round", "--name", NAME, "--store", str(seen.here.paths.store))
    assert typed.returncode == 2, typed.stderr
    assert "all of them are finished" in typed.stderr and "Traceback" not in typed.stderr
    assert (seen.folder / ASKED).read_bytes() == seen.asked_before
    assert f"{NAME}   finished" in seen.here.afd("status", "--name", NAME).stdout


def test_the_log_has_a_line_of_numbers_a_stage(seen: Seen) -> None:
    log = seen.logs(seen.round)
    lines = (
        r"fit  [\d.]+ s  pair_accuracy \S+  margin \S+",
        r"update  [\d.]+ s  loss \S+",
        r"rollout  [\d.]+ s  num_rollouts 16",
        r"round 0  held out: .*gravity \S+",
    )
    for line in lines:
        assert re.search(line, log), log
    assert re.search(r"warmstart  [\d.]+ s  loss \S+", seen.logs(seen.campaign))


def test_a_round_and_a_campaign_leave_tables(seen: Seen) -> None:
    of_round = artifacts_of(seen.here, seen.round.id)[f"{NAME}-round-000"]
    assert of_round.type == "table"
    rows = json.loads(of_round.data)
    assert {"metric", "student"} == set(rows[0]) and "gravity" in {row["metric"] for row in rows}
    of_campaign = artifacts_of(seen.here, seen.campaign.id)
    assert set(of_campaign) == {f"{NAME}-results", f"{NAME}-mlflow"}


def test_progress_ends_at_100_percent(
    seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow, task
    from prefect.runtime import flow_run
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(pages, "LONG_S", 0.01)
    monkeypatch.setattr(pages, "EVERY_S", 0.01)
    store, request = Store(tmp_path), requests.prompts(small_params())
    file = store.work_path(request.output) / "progress.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"done": 1190, "total": 1200}')

    @task
    def compute(run_id: str) -> None:
        with progress_artifact("long", store, request):
            deadline = time.monotonic() + PATIENCE_S
            while not artifacts_of(seen.here, UUID(run_id)):
                assert time.monotonic() < deadline
                time.sleep(0.05)

    @flow
    def long() -> str:
        compute(str(flow_run.id))
        return str(flow_run.id)

    # This process may have settled on another test's server.
    with temporary_settings({PREFECT_API_URL: seen.here.up.api}):
        run = UUID(long())
    deadline = time.monotonic() + PATIENCE_S  # the run itself waits LAST_S at most
    while [(one.type, float(one.data)) for one in artifacts_of(seen.here, run).values()] != [
        ("progress", 100.0)
    ]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_prefects_own_commands_answer(seen: Seen) -> None:
    listed = seen.prefect("deployment", "ls")
    assert "afd/round" in listed and "afd-campaign/campaign" in listed
    completed = seen.prefect("flow-run", "ls", "--state", "Completed")
    assert str(seen.campaign.id) in completed and str(seen.refused.id) not in completed
    assert f"{NAME}-round-000" in seen.prefect("artifact", "ls")


def test_up_again_prints_a_command_whose_campaign_is_new(
    seen: Seen, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = seen.here.paths
    (paths.runs / "demo").mkdir()
    start_services(paths.runs, paths.store)
    assert "afd/round -p campaign=demo-2 -p params=params/pocket.yaml" in capsys.readouterr().out
    (paths.runs / "demo").rmdir()


def test_every_parameter_of_a_form_is_described() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.deploy import afd_campaign, afd_round

    for flow in (afd_round, afd_campaign):
        for name, known in parameter_schema(flow.fn).properties.items():
            assert known.get("description"), f"{flow.name}: {name}"


@pytest.fixture
def page(seen: Seen, browser: "Browser") -> "Iterator[Page]":
    """A page that fails the test for what it complains about, or asks of any other host."""
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    opened.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    opened.on("console", lambda one: complaints.append(f"{one.text} {one.location}")
              if one.type == "error" else None)  # fmt: skip
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("response", lambda one: complaints.append(f"{one.status} {one.url}")
              if one.status >= 400 else None)  # fmt: skip
    opened.on("request", lambda one: complaints.append(f"outside: {one.url}")
              if not re.match(r"(http://(127\.0\.0\.1|localhost):|data:|blob:)", one.url)
              else None)  # fmt: skip
    yield opened
    text = opened.locator("body").inner_text()
    opened.close()
    assert "Can't connect" not in text and "Oops" not in text
    assert [one for one in complaints if not OF_PREFECT.search(one)] == []


def visit(page: "Page", address: str, *texts: str) -> None:
    page.goto(address)
    for text in texts:
        page.get_by_text(text).first.wait_for()


@pytest.mark.browser
def test_the_pages_open(seen: Seen, page: "Page") -> None:
    visit(page, seen.page("/"), "Flow Runs")
    visit(page, seen.page("/runs"), "shown-simulator", "shown-round-000-simulator", "Refused")
    visit(page, seen.page("/flows"), "afd-campaign")
    visit(page, seen.page("/deployments"), "campaign", "round")
    visit(page, seen.page("/artifacts"), f"{NAME}-results", f"{NAME}-round-000")
    visit(page, seen.page("/events"), "Event Feed", "Flow Run Completed")
    visit(page, seen.page("/runs").replace("127.0.0.1", "localhost"), "shown-simulator")


@pytest.mark.browser
def test_a_flow_runs_page_has_its_graph_logs_and_artifacts(seen: Seen, page: "Page") -> None:
    visit(page, seen.page(f"/runs/flow-run/{seen.round.id}"), "round 0 held out", "pair_accuracy")
    page.locator("canvas").first.wait_for()
    page.get_by_text("Artifacts", exact=True).last.click()
    page.get_by_text(f"{NAME}-round-000").first.wait_for()
    page.get_by_text("Task Runs", exact=True).last.click()
    page.get_by_role("link", name=re.compile("^fit-")).first.click()
    page.wait_for_url("**/runs/task-run/**")
    page.get_by_text("pair_accuracy").first.wait_for()
    visit(page, seen.page(f"/runs/flow-run/{seen.refused.id}"), "all of them are finished")
    table = artifacts_of(seen.here, seen.round.id)[f"{NAME}-round-000"]
    visit(page, seen.page(f"/artifacts/artifact/{table.id}"), "trajectory_error_px")


@pytest.mark.browser
def test_a_deployments_form_says_what_each_field_is(seen: Seen, page: "Page") -> None:
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(seen.here.up.api) as client:
        deployment = client.read_deployment_by_name("afd/round")
    visit(page, seen.page(f"/deployments/deployment/{deployment.id}"), "Description")
    page.get_by_text("Description", exact=True).last.click()
    page.get_by_text("One round of a campaign").first.wait_for()
    form = seen.page(f"/deployments/deployment/{deployment.id}/run")
    visit(page, form, "A new name starts a new campaign", "e.g. update.beta=0.2")
    page.get_by_text("you have seen it, the campaign goes on").first.wait_for()
