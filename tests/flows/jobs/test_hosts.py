"""A campaign goes on from another host: what the first one left runs there, or nowhere."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from afd.config import Cluster
from afd.params import load_params
from afd.processes import ProcessId
from afd.runtime.mailbox import Mailbox, request_id
from afd.runtime.request import StageRequest
from afd.store import Store
from flows import dispatch
from flows.dispatch import LocalJobs, compute
from flows.jobs import scheduler
from flows.jobs.records import WORKER, Job, JobRecords, StageRecord
from flows.jobs.site import Site
from flows.jobs.worker_handle import reattach
from tests.flows.conftest import CLUSTER, PROJECT
from tests.flows.jobs.conftest import Programs

PROMPTS = {"kind": "grammar", "num_held_out": 4, "num_tuning": 0, "num_train": None}
REQUEST = StageRequest(stage="prompts", params={"prompts": PROMPTS, "seed": 1}, inputs={})
TOKEN = "afd-left-behind"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    cluster = load_params(Cluster, CLUSTER, (), ["allocation=stage", "timeout_min=1"])
    return Site(Store(tmp_path / "store"), tmp_path / "runs" / "demo", cluster)


@pytest.fixture
def sleeper() -> "Iterator[subprocess.Popen[bytes]]":
    """Somebody's process on this host."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield process
    process.kill()
    process.wait()


def left(process: ProcessId, **changed: object) -> Job:
    """A job as another host wrote it down."""
    there = process.model_copy(update={"host": "elsewhere"})
    job = Job(job_id=str(process.pid), kind="local", process=there, token=TOKEN)
    return job.model_copy(update=changed)


def entry(site: Site, job: Job, **changed: object) -> JobRecords:
    ledger = JobRecords(site.folder / "ledger")
    known = StageRecord(
        name=request_id(REQUEST),
        stage=REQUEST.stage,
        fingerprint=REQUEST.output.fingerprint,
        folder=str(site.submitit),
        jobs=(job,),
        attempts=1,
        submitted_at="",
    )
    ledger.write(known.model_copy(update=changed))
    return ledger


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ended", ["", "refused", "cancelled"])
def test_a_stage_that_another_host_left_is_computed_here(
    site: Site,
    sleeper: "subprocess.Popen[bytes]",
    ended: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    ledger = entry(site, left(ProcessId.of(sleeper.pid)), ended=ended)
    assert compute(LocalJobs(site), site, REQUEST).status == "done"
    known = ledger.read(request_id(REQUEST))
    assert known is not None
    assert (known.attempts, known.ended) == (2, "done")
    assert ledger.cancelled_file(TOKEN).exists() == (not ended)  # it may live, and find this
    assert ("was started on elsewhere" in capfd.readouterr().err) == (not ended)
    assert sleeper.poll() is None


@pytest.mark.timeout(60)
def test_an_ended_stage_is_computed_anew_though_its_process_lives_here(
    site: Site, sleeper: "subprocess.Popen[bytes]"
) -> None:
    process = ProcessId.of(sleeper.pid)
    entry(site, Job(job_id=str(sleeper.pid), kind="local", process=process), ended="refused")
    assert compute(LocalJobs(site), site, REQUEST).status == "done"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("has_slurm", [True, False])
def test_a_stage_left_in_slurms_queue_is_given_up_and_computed_here(
    site: Site, programs: Programs, has_slurm: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = f"echo JobId=77 JobState=PENDING Comment={TOKEN}"
    asked = programs(**({"scancel": "exit 0", "scontrol": shown} if has_slurm else {}))
    job = Job(job_id="77", kind="slurm", token=TOKEN)
    ledger = entry(site, job)
    assert compute(LocalJobs(site), site, REQUEST).status == "done"
    assert ledger.cancelled_file(TOKEN).exists()
    assert ("scancel --quiet 77\n" in asked.read_text()) == has_slurm
    assert (f"lists those with the comment {TOKEN}" in capfd.readouterr().err) == (not has_slurm)


def test_what_was_given_up_from_another_host_stops_by_the_mark(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "new_token", lambda: TOKEN)
    mark = JobRecords(site.folder / "ledger").cancelled_file(TOKEN)
    mark.parent.mkdir(parents=True)
    mark.touch()
    assert LocalJobs(site).attempt(REQUEST).status == "stopped"
    assert not site.store.have(REQUEST.output)


def test_nothing_is_killed_for_a_job_of_another_host_and_the_host_is_named(
    sleeper: "subprocess.Popen[bytes]", capfd: pytest.CaptureFixture[str]
) -> None:
    job = left(ProcessId.of(sleeper.pid))
    assert scheduler.states([job])[job.job_id].state == "ELSEWHERE"
    scheduler.cancel([job])
    assert sleeper.poll() is None
    assert f"process {sleeper.pid} was started on elsewhere" in capfd.readouterr().err
    scheduler.cancel([Job(job_id=job.job_id, kind="local", process=ProcessId.of(sleeper.pid))])
    assert sleeper.poll() is not None


def test_a_worker_of_another_host_is_told_to_stop_and_not_adopted(
    site: Site, sleeper: "subprocess.Popen[bytes]"
) -> None:
    folder = site.folder / "workers" / f"{site.cluster.num_children}x{site.cluster.num_threads}-a"
    box = Mailbox(folder).create()
    job = left(ProcessId.of(sleeper.pid), token="")
    ledger = entry(site, job, name=WORKER, stage=WORKER, note=str(folder))
    assert reattach(site, ledger, lambda: None) is None
    assert box.is_stopped()
    known = ledger.read(WORKER)
    assert known is not None
    assert known.ended == "stopped"
    assert sleeper.poll() is None


@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_a_worker_of_the_other_executor_is_ended_and_not_adopted(
    site: Site, programs: Programs, sleeper: "subprocess.Popen[bytes]", kind: str
) -> None:
    shown = f"echo JobId=77 JobState=PENDING Comment={TOKEN}"
    asked = programs(scancel="exit 0", sbatch="exit 1", squeue="exit 1", scontrol=shown)
    folder = site.folder / "workers" / "a"
    box = Mailbox(folder).create()
    process = ProcessId.of(sleeper.pid)
    job = Job(job_id=str(sleeper.pid), kind="local", process=process)
    if kind == "slurm":
        job = Job(job_id="77", kind="slurm", token=TOKEN)
    else:
        slurm = load_params(Cluster, PROJECT / "params" / "cluster" / "slurm.yaml")
        site = Site(site.store, site.folder, slurm)
    ledger = entry(site, job, name=WORKER, stage=WORKER, note=str(folder))
    assert reattach(site, ledger, lambda: None) is None
    assert box.is_stopped()
    known = ledger.read(WORKER)
    assert known is not None
    assert known.ended == "stopped"
    if kind == "slurm":
        assert "scancel --quiet 77\n" in asked.read_text()
    else:
        assert sleeper.poll() is not None
