"""Whole campaigns on SLURM with Prefect and MLflow: heads and hosts are lost, one is cancelled."""

import json
import os
import shutil
import signal
from collections.abc import Iterator

import psutil
import pytest
import yaml

from flows.campaign_lock import holder_of
from flows.commands.up import read_up
from flows.jobs.records import JobRecords
from flows.mlflow_runs.run_ids import RunIds
from flows.prefect_runs.keeper import SERVER
from tests.flows.here import PATIENCE_S, Here, gone, services, wait_for
from tests.slurm.conftest import RealSlurm, cluster
from tests.slurm.start import OVERRIDES, Start
from tests.slurm.test_reattach import goes_on, queue_stands_still

__all__ = ("queue_stands_still",)  # a fixture
pytestmark = pytest.mark.campaign


@pytest.fixture(scope="module")
def here(slurm: RealSlurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """Services, and a worker's job as the only one of a round."""
    del slurm
    folder = tmp_path_factory.mktemp("campaigns")
    chosen = cluster("allocation=round", "resources.worker.mem_gb=4", "slurm.poll_s=0.5")
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    with services(folder) as made:
        made.cluster, made.chosen = file, OVERRIDES
        yield made


def jobs_of(here: Here, name: str) -> list[str]:
    """Every job that the campaign has had."""
    entries = JobRecords(here.paths.runs / name / "ledger").entries()
    return [job.job_id for entry in entries for job in entry.jobs]


def queued(here: Here, name: str) -> list[str]:
    """The same, once a head waits for the queue."""
    ledger = JobRecords(here.paths.runs / name / "ledger")
    wait_for(lambda: [entry for entry in ledger.entries() if entry.waits])
    return jobs_of(here, name)


def test_head_and_then_whole_host_lost_the_job_is_waited_for_and_nothing_stays_running(
    here: Here, slurm: RealSlurm, queue_stands_still: None
) -> None:
    del queue_stands_still
    ledger = JobRecords(here.paths.runs / "lost" / "ledger")
    head = here.start("lost", "round")
    (job,) = queued(here, "lost")
    wait_for(lambda: here.in_mlflow("lost") == "running")
    head.kill()
    head.wait()
    assert "Running" in here.states("lost")  # Prefect cannot know

    (entry,) = ledger.entries()
    unseen = tuple(one.model_copy(update={"seen": {}}) for one in entry.jobs)
    ledger.write(entry.model_copy(update={"jobs": unseen}))  # the next head has to look itself
    head = here.start("lost", "resume")
    assert queued(here, "lost") == [job]
    server = psutil.Process(_server_of(here))
    for one in (head.pid, here.up.serving.pid, server.ppid(), server.pid):  # the keeper too
        os.kill(one, signal.SIGKILL)
    head.wait()
    wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)

    again = here.afd("up", "--store", str(here.paths.store))
    assert "told     Prefect about" in again.stdout, again.stderr
    here.up = read_up(here.paths) or here.up
    assert here.states("lost") == {"Crashed"}
    assert jobs_of(here, "lost") == [job]
    assert slurm.ask("squeue", "-h", "-j", job, "-o", "%T") == "PENDING"
    assert here.afd("cancel", "--name", "lost").returncode == 0
    assert slurm.ask("squeue", "-h", "--states=all", "-j", job, "-o", "%T") == "CANCELLED"
    told = RunIds(here.paths.runs / "lost").entries().values()
    assert "running" not in {one.get("state") for one in told}
    assert here.in_mlflow("lost") == "killed"
    assert not [entry for entry in ledger.entries() if not entry.ended]


def test_a_deployed_round_cancelled_in_prefect_beside_one_that_ends(
    here: Here, slurm: RealSlurm, start: Start, queue_stands_still: None
) -> None:
    """And the same campaign once more is told who holds it."""
    del queue_stands_still
    shutil.copytree(start.whole.root, here.paths.store, dirs_exist_ok=True)  # all but evaluate
    here.deploy("stopped", "afd/round")
    here.deploy("beside", "afd/round")
    (own,), (other,) = queued(here, "stopped"), queued(here, "beside")
    again = here.start("stopped", "round")
    assert again.wait(PATIENCE_S) == 2
    holder = holder_of(here.paths.runs / "stopped")
    assert holder is not None
    assert f"campaign 'stopped' is running already: {holder}" in _log(here, "stopped")
    assert holder.process.pid != again.pid

    here.cancel_in_prefect("stopped")
    assert gone({holder.process.pid})
    wait_for(lambda: here.states("stopped") == {"Cancelled"})
    wait_for(lambda: here.in_mlflow("stopped") == "killed")
    assert slurm.ask("squeue", "-h", "--states=all", "-j", own, "-o", "%T") == "CANCELLED"
    assert slurm.ask("squeue", "-h", "-j", other, "-o", "%T") == "PENDING"
    goes_on(slurm)
    wait_for(lambda: here.states("beside") == {"Completed"})
    assert read_up(here.paths) == here.up


def _server_of(here: Here) -> int:
    home = here.paths.runs / ".services" / "prefect"
    return int(json.loads((home / SERVER).read_bytes())["pid"])


def _log(here: Here, name: str) -> str:
    return (here.folder / f"{name}.log").read_text()
