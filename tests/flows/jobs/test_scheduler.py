"""squeue's answer is good, whatever sacct does."""

import time
from pathlib import Path

import pytest

from afd.config import Cluster
from afd.params import load_params
from afd.runtime.mailbox import Mailbox
from afd.store import Store
from flows.jobs import slurm as slurm_jobs
from flows.jobs import slurm_queue
from flows.jobs.batch import batch
from flows.jobs.poller import poller
from flows.jobs.records import WORKER, Job, JobRecords, StageRecord
from flows.jobs.scheduler import SchedulerError, Slurm
from flows.jobs.site import Site
from flows.jobs.submit import submit_slurm
from flows.jobs.worker_handle import WorkerHandle
from tests.flows.conftest import PROJECT
from tests.flows.jobs.conftest import Programs
from tests.slurm.conftest import until

LIVES = Job(job_id="1", kind="slurm", token="afd-1")
FORGOTTEN = Job(job_id="2", kind="slurm", token="afd-2")
SQUEUE = "echo 'afd-1|1|RUNNING|None|0|0|n1|'"
GONE = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


@pytest.mark.parametrize(
    "sacct",
    [None, "exit 1", "exec /bin/sleep 30", "echo nonsense", "echo '|afd-x|2|RUNNING|0:0|n1'"],
)
def test_a_sacct_that_is_absent_refuses_hangs_or_is_wrong_hides_nothing(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, sacct: str | None
) -> None:
    monkeypatch.setattr(slurm_queue, "SACCT_PATIENCE_S", 0.5)
    programs(squeue=SQUEUE, scontrol=GONE, **({} if sacct is None else {"sacct": sacct}))
    seen = Slurm().states([LIVES, FORGOTTEN])
    assert {task: one.state for task, one in seen.items()} == {"1": "RUNNING"}


def test_how_a_job_ended_is_taken_from_sacct(programs: Programs) -> None:
    programs(squeue=SQUEUE, scontrol=GONE, sacct="echo '|afd-x|2|CANCELLED by 7|0:15|n2'")
    ended = Slurm().states([LIVES, FORGOTTEN])["2"]
    assert (ended.state, ended.reason, ended.exit_code, ended.node) == (
        *("CANCELLED", "by 7"),
        *(-15, "n2"),
    )


def test_a_sacct_that_hangs_is_waited_for_once_in_ten_minutes_and_told_once(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm_queue, "SACCT_PATIENCE_S", 0.5)
    asked = programs(squeue=SQUEUE, scontrol=GONE, sacct="exec /bin/sleep 30")
    slurm = Slurm()
    for _ in range(3):
        slurm.states([LIVES, FORGOTTEN])
    assert asked.read_text().count("sacct") == 1
    later = time.monotonic() + 601
    monkeypatch.setattr(time, "monotonic", lambda: later)
    slurm.states([LIVES, FORGOTTEN])
    assert asked.read_text().count("sacct") == 2
    assert capfd.readouterr().err.count("sacct did not answer within 0.5 s") == 1


def test_nobody_asks_about_a_worker_that_has_ended(tmp_path: Path, programs: Programs) -> None:
    asked = programs(squeue="exit 0", scontrol=GONE, sacct="exit 0", scancel="exit 0")
    params = PROJECT / "params" / "cluster" / "slurm.yaml"
    chosen = load_params(Cluster, params, (), ["slurm.poll_s=0.11", "allocation=campaign"])
    site = Site(Store(tmp_path / "store"), tmp_path / "runs" / "demo", chosen)
    ledger = JobRecords(site.folder / "ledger")
    entry = StageRecord(
        name=WORKER,
        stage=WORKER,
        fingerprint="",
        folder=str(site.submitit),
        jobs=(Job(job_id="77", kind="slurm", token="afd-77"),),
        attempts=1,
        submitted_at="",
        note=str(Mailbox(site.folder / "workers" / "a").create().folder),
    )
    worker = WorkerHandle(site, ledger, ledger.write(entry))
    until(lambda: not worker.is_alive())
    assert "77" in asked.read_text()
    worker.stop()
    asked.write_text("")
    until(lambda: poller(0.11).look([LIVES]) is not None)
    assert "--jobs=1\n" in asked.read_text()
    assert not worker.is_alive()
    assert "77" not in asked.read_text()


def test_the_size_of_arrays_is_asked_again_after_an_answer_that_was_none(
    programs: Programs,
) -> None:
    programs(scontrol="echo slurm_load_ctl_conf error >&2; exit 1")
    with pytest.raises(SchedulerError, match="slurm_load_ctl_conf error"):
        slurm_jobs._max_array()
    programs(scontrol="echo 'MaxArraySize            = 7'")
    assert slurm_jobs._max_array() == 7
    slurm_jobs._max_array.cache_clear()


def test_no_request_for_memory_is_rounded_to_all_of_it(tmp_path: Path, programs: Programs) -> None:
    shown = "echo JobId=7 JobName=name JobState=PENDING Comment=afd-token"
    programs(srun="exit 0", sbatch="echo 7", scontrol=shown)
    params = PROJECT / "params" / "cluster" / "slurm.yaml"
    chosen = load_params(Cluster, params, (), ["resources.fit.mem_gb=0.0005"])
    site = Site(Store(tmp_path / "store"), tmp_path / "runs" / "demo", chosen)
    submit_slurm(site, "name", "afd-token", "fit", print, "told")
    scripts = [script.read_text() for script in site.submitit.glob("*submission*.sh")]
    assert scripts
    assert all("#SBATCH --mem=1MB" in script for script in scripts)


@pytest.mark.parametrize(
    ("gpus_as", "flag"),
    [
        ("task", "--gpus-per-task=a100:2"),
        ("node", "--gpus-per-node=a100:8"),
        ("gres", "--gres=gpu:a100:8"),
    ],
)
def test_a_batch_script_asks_in_the_words_that_a_site_takes(
    tmp_path: Path, programs: Programs, gpus_as: str, flag: str
) -> None:
    programs(srun="exit 0")
    own = [f"slurm.gpus_as={gpus_as}", "slurm.gpu_type=a100", "slurm.sbatch_flags=[--exclusive]"]
    own += ["slurm.srun_flags=[--gpu-bind=none]", "resources.every_stage.mem_gb=null"]
    own += ["resources.fit.tasks_per_node=4", "resources.fit.gpus_per_task=2"]
    params = PROJECT / "params" / "cluster" / "slurm.yaml"
    chosen = load_params(Cluster, params, (), own)
    lines = batch(tmp_path, chosen, "fit", "name", "afd-token").text("true").splitlines()
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert flag in asked
    assert "--exclusive" in asked
    assert not [line for line in asked if line.startswith("--mem")]
    assert len([line for line in asked if line.startswith(("--gpus", "--gres"))]) == 1
    assert "export SRUN_CPUS_PER_TASK=1" in lines
    assert any(line.startswith("srun ") and "--gpu-bind=none" in line for line in lines)
