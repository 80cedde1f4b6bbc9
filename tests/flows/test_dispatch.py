"""Dispatch: what is tried again, what is given up, and that a live job is not submitted twice."""

import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from afd.config import Cluster
from afd.params import load_params
from afd.processes import ProcessId
from afd.runtime.mailbox import request_id
from afd.runtime.outcome import Outcome, Status
from afd.runtime.request import StageRequest
from afd.store import Store
from flows import dispatch
from flows.dispatch import LocalJobs, compute
from flows.jobs.records import Job, JobRecords, StageRecord
from flows.jobs.site import Site
from tests.flows.conftest import CLUSTER, PROJECT


def request(num_held_out: int = 4) -> StageRequest:
    chosen = {"kind": "grammar", "num_held_out": num_held_out, "num_tuning": 0}
    chosen["num_train"] = None
    return StageRequest(stage="prompts", params={"prompts": chosen, "seed": 1}, inputs={})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    cluster = load_params(Cluster, CLUSTER, (), ["allocation=stage", "timeout_min=1"])
    return Site(Store(tmp_path / "store"), tmp_path / "runs" / "demo", cluster)


class Scripted:
    """A dispatch that ends as told, one status an attempt."""

    num_side_by_side = 1

    def __init__(self, *statuses: Status) -> None:
        self.left = list(statuses)

    def start(self) -> None: ...

    def attempt(self, request: StageRequest) -> Outcome:
        del request
        return Outcome(status=self.left.pop(0), message="told", exit_code=0, wall_s=0.0, log=None)

    def end_round(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("statuses", "ends", "num_left"),
    [
        (("lost", "lost", "done"), "lost", 1),  # a bug that kills is not tried for ever
        (("lost", "refused"), "refused", 0),
        (("busy", "busy", "store"), "store", 0),  # busy is waited for
        (("failed", "done"), "failed", 1),  # the same code would fail again
        (("done",), "failed", 0),  # "done" without an artifact
    ],
)
def test_what_is_tried_again(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    statuses: tuple[Status, ...],
    ends: Status,
    num_left: int,
) -> None:
    monkeypatch.setattr(dispatch, "BUSY_RETRY_S", 0.0)
    scripted = Scripted(*statuses)
    assert compute(scripted, site, request()).status == ends
    assert len(scripted.left) == num_left


def test_a_stage_in_a_job_of_its_own(site: Site) -> None:
    jobs = LocalJobs(site)
    assert compute(jobs, site, request()).status == "done"
    assert site.store.have(request().output)
    refused = compute(jobs, site, request(num_held_out=10**6))
    assert refused.status == "refused"
    assert "run the same command again" in refused.message
    assert "Traceback" not in refused.message


def test_a_live_job_of_the_same_artifact_is_waited_for(site: Site) -> None:
    """The ledger of a killed flow names a process; it makes the artifact a second from now."""
    asked = request()
    file = site.folder / "request.json"
    file.parent.mkdir(parents=True)
    file.write_text(asked.model_dump_json())
    script = (
        "import sys, time; time.sleep(1); from afd.stages.__main__ import main; "
        f"main(['prompts', '--request', {str(file)!r}, '--store', {str(site.store.root)!r}]); "
        "time.sleep(60)"
    )
    job = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT)
    entry = StageRecord(
        name=request_id(asked),
        stage=asked.stage,
        fingerprint=asked.output.fingerprint,
        folder=str(site.folder),
        jobs=(Job(job_id=str(job.pid), kind="local", process=ProcessId.of(job.pid)),),
        attempts=1,
        submitted_at="",
    )
    JobRecords(site.folder / "ledger").write(entry)
    assert compute(LocalJobs(site), site, asked).status == "done"
    assert not (site.folder / "submitit").exists()  # nothing was submitted
    job.kill()
    job.wait()


def test_an_artifact_made_by_another_campaign_is_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "BUSY_RETRY_S", 0.05)
    asked = request()
    work = site.store.work_path(asked.output)
    work.mkdir(parents=True)
    in_process = Cluster.model_validate(site.cluster.model_dump() | {"executor": "in_process"})
    here = Site(site.store, site.folder, in_process)
    lock = (work / "lock").open("a+b")
    fcntl.flock(lock, fcntl.LOCK_EX)
    release = threading.Timer(0.5, lock.close)
    release.start()
    started = time.monotonic()
    assert compute(dispatch.build(here), here, asked).status == "done"
    assert time.monotonic() - started > 0.4
    release.join()
