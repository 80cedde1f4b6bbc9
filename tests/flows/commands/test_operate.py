"""The commands of an operator, on real campaigns with a real Prefect server."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from flows.campaign_lock import holder_of
from flows.commands.up import bring_up, read_up
from tests.flows.here import PATIENCE_S, Here, gone, services, wait_for
from tests.flows.unwell import Door


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with services(tmp_path_factory.mktemp("here")) as made:
        yield made


@pytest.mark.campaign
def test_up_again_finds_it_and_after_a_kill_mends_it(here: Here) -> None:
    again, was_up = bring_up(here.paths)
    assert was_up and again == here.up
    os.kill(here.up.serving.pid, signal.SIGKILL)
    wait_for(lambda: not here.up.serving.is_alive())
    mended, was_up = bring_up(here.paths)
    assert not was_up and mended.is_well
    assert mended.api == here.up.api  # addresses that people noted stay true
    here.up = mended
    assert read_up(here.paths) == mended


@pytest.mark.campaign
def test_cancelled_from_another_terminal_everything_says_so(here: Here) -> None:
    head = here.start("terminal")
    jobs = here.computing("terminal")
    status = here.afd("status", "--name", "terminal").stdout
    assert "running" in status and "warmstart" in status and f"pid {head.pid}" in status
    done = here.afd("cancel", "--name", "terminal")
    assert done.returncode == 0, done.stderr
    assert "resume terminal" in done.stdout
    assert head.wait(PATIENCE_S) == 130
    assert gone(jobs)
    assert here.states("terminal") == {"Cancelled"}
    assert here.in_mlflow("terminal") == "killed"
    assert "cancelled" in here.afd("status", "--name", "terminal").stdout


@pytest.mark.nightly(reason="tests/slurm/test_campaigns.py cancels a deployed round in Prefect")
@pytest.mark.campaign
def test_cancelled_in_prefect_everything_says_so(here: Here) -> None:
    here.deploy("button")
    jobs = here.computing("button")
    here.cancel_in_prefect("button")
    assert gone(jobs)
    wait_for(lambda: here.states("button") == {"Cancelled"})
    wait_for(lambda: here.in_mlflow("button") == "killed")
    assert holder_of(here.paths.runs / "button") is None


@pytest.mark.campaign
def test_after_kill_9_of_the_head_nothing_stays_running(here: Here) -> None:
    head = here.start("killed")
    jobs = here.computing("killed")
    os.kill(head.pid, signal.SIGKILL)
    head.wait()
    assert "Running" in here.states("killed")  # Prefect cannot know
    assert "killed" in here.afd("status", "--name", "killed").stdout
    done = here.afd("cancel", "--name", "killed")
    assert done.returncode == 0, done.stderr
    assert gone(jobs)
    assert here.states("killed") == {"Cancelled"}
    assert here.in_mlflow("killed") == "killed"


@pytest.mark.campaign
def test_a_second_ctrl_c_leaves_at_once_and_all_is_settled(here: Here) -> None:
    head = here.start("twice")
    jobs = here.computing("twice")
    os.kill(head.pid, signal.SIGINT)
    time.sleep(0.3)
    os.kill(head.pid, signal.SIGINT)
    assert head.wait(PATIENCE_S) == 130
    assert gone(jobs)
    wait_for(lambda: here.states("twice") == {"Cancelled"})
    wait_for(lambda: here.in_mlflow("twice") == "killed")
    assert "resume twice" in (here.folder / "twice.log").read_text().split("left twice")[1]


@pytest.mark.campaign
def test_killed_before_anything_of_its_run_is_on_disk_it_is_found_by_its_tag(here: Here) -> None:
    head = here.start("early", AFD_FAILPOINT="flow.run_begun")
    assert head.wait(PATIENCE_S) == -signal.SIGKILL
    assert not list((here.paths.runs / "early" / "flow_runs").glob("*.json"))
    assert here.states("early") == {"Running"}  # Prefect cannot know
    assert here.afd("cancel", "--name", "early").returncode == 0
    assert here.states("early") == {"Cancelled"}
    assert not list((here.paths.runs / "early" / "flow_runs" / "called").iterdir())


@pytest.mark.campaign
def test_prefect_hanging_in_the_middle_is_left_and_the_round_goes_on_to_its_end(here: Here) -> None:
    port = int(here.up.api.split(":")[2].split("/")[0])
    door = Door(port)
    quick = replace(here, chosen=())
    impatient = {"PREFECT_API_REQUEST_TIMEOUT": "5", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    head = quick.start("hanging", "round", PREFECT_API_URL=f"{door.url}/api", **impatient)
    logs = here.paths.runs / "hanging" / "logs"
    wait_for(lambda: any(logs.glob("warmstart-*.log")) or head.poll() is not None)
    assert head.poll() is None, (here.folder / "hanging.log").read_text()
    assert door.num_passed > 0
    door.mood = "hangs"  # it takes every request and answers none
    assert head.wait(PATIENCE_S) == 0
    said = (here.folder / "hanging.log").read_text()
    assert "Prefect's server is away, going on without it" in said
    assert "student " in said
    door.close()
