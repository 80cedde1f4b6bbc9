"""The head may die: jobs go on, the next one waits for them; cancelling ends own jobs alone."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from afd.runtime.mailbox import request_id
from afd.runtime.request import StageRequest
from afd.store import Store
from flows.jobs.records import WORKER, JobRecords
from tests.slurm.conftest import PROJECT, RealSlurm, prompts_request, until


class Head:
    """A process that computes one stage on the cluster."""

    def __init__(
        self, folder: Path, campaign: str, request: StageRequest, *overrides: str, **more: str
    ) -> None:
        command = [sys.executable, "-m", "tests.slurm.head", str(folder), campaign]
        self.process = subprocess.Popen(
            [*command, request.model_dump_json(), *overrides],
            cwd=PROJECT,
            env={**os.environ, **more},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ledger = JobRecords(folder / "runs" / campaign / "ledger")
        self.name = request_id(request)

    def waits_for(self) -> str:
        """The number of the job, once it is known."""
        return until(lambda: (entry := self.ledger.read(self.name)) and entry.job_id)

    def ends(self) -> tuple[int, str]:
        told, _ = self.process.communicate(timeout=240)
        return self.process.returncode, told


@pytest.fixture
def queue_stands_still(slurm: RealSlurm) -> Iterator[None]:
    """Nothing starts before the test is over, or says so."""
    slurm.ask("scontrol", "update", "partition=main", "state=down")
    yield
    slurm.ask("scontrol", "update", "partition=main", "state=up")


def goes_on(slurm: RealSlurm) -> None:
    slurm.ask("scontrol", "update", "partition=main", "state=up")


@pytest.mark.parametrize("killed_at", ["while it waits", "before sbatch has answered"])
def test_the_next_head_waits_for_the_job_of_one_that_was_killed(
    slurm: RealSlurm, queue_stands_still: None, tmp_path: Path, killed_at: str
) -> None:
    del queue_stands_still
    request = prompts_request(seed=len(killed_at))
    if killed_at == "while it waits":
        killed = Head(tmp_path, "demo", request)
        job_id = killed.waits_for()
        killed.process.kill()
    else:
        killed = Head(tmp_path, "demo", request, AFD_FAILPOINT="flow.job_submitted")
        (job_id,) = until(lambda: slurm.jobs(f"afd-{killed.name}"))
    assert killed.ends()[0] == -signal.SIGKILL
    assert slurm.jobs(f"afd-{killed.name}") == [job_id]

    after = Head(tmp_path, "demo", request)
    assert until(lambda: _answered(after)) == job_id
    goes_on(slurm)
    assert after.ends() == (0, "done \n")
    assert Store(tmp_path / "store").have(request.output)
    assert slurm.jobs(f"afd-{after.name}") == [job_id]  # nothing was submitted again


def _answered(head: Head) -> str:
    """The job whose state this head, not the one before it, has written down."""
    entry = head.ledger.read(head.name)
    return entry.job_id if entry is not None and entry.jobs[-1].seen else ""


def test_cancelling_ends_own_jobs_and_nobody_elses(
    slurm: RealSlurm, queue_stands_still: None, tmp_path: Path
) -> None:
    del queue_stands_still
    mine = Head(tmp_path / "mine", "demo", prompts_request())
    beside = Head(tmp_path / "beside", "demo", prompts_request())  # another campaign of this user
    as_other = ("--uid=nobody", "--chdir=/tmp") if os.geteuid() == 0 else ("--chdir=/tmp",)
    foreign = slurm.ask(
        *("sbatch", "--parsable", *as_other, f"--job-name=afd-{mine.name}"),
        *("--output=/dev/null", "--wrap=true"),
    )
    own, other = mine.waits_for(), beside.waits_for()
    mine.process.send_signal(signal.SIGINT)
    assert mine.ends()[0] != 0
    until(lambda: slurm.ask("squeue", "-h", "--states=all", "-j", own, "-o", "%T") == "CANCELLED")
    entry = mine.ledger.read(mine.name)
    assert entry is not None
    assert entry.ended == "cancelled"
    states = [slurm.ask("squeue", "-h", "-j", job, "-o", "%T") for job in (other, foreign)]
    assert states == ["PENDING", "PENDING"]
    goes_on(slurm)
    assert beside.ends() == (0, "done \n")
    with contextlib.suppress(subprocess.CalledProcessError):
        slurm.ask("scancel", foreign)


@pytest.mark.parametrize("allocation", ["stage", "campaign"])
def test_interrupted_while_sbatch_is_being_asked_no_job_is_left_in_the_queue(
    slurm: RealSlurm, queue_stands_still: None, tmp_path: Path, allocation: str
) -> None:
    del queue_stands_still
    asked, program = tmp_path / "asked", tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    slow = f'touch {asked}; sleep 1; exec {shutil.which("sbatch")} "$@"'
    program.write_text(f"#!/bin/sh\n{slow}\n")
    program.chmod(0o755)
    head = Head(
        *(tmp_path, f"asks-by-{allocation}", prompts_request(seed=9)),
        *(f"allocation={allocation}", "resources.worker.mem_gb=4"),
        PATH=f"{program.parent}:{os.environ['PATH']}",
    )
    until(asked.exists)
    head.process.send_signal(signal.SIGINT)
    assert head.ends()[0] != 0
    name = f"afd-{head.name}" if allocation == "stage" else f"afd-worker-asks-by-{allocation}"
    (job,) = slurm.jobs(name)
    assert slurm.ask("squeue", "-h", "--states=all", "-j", job, "-o", "%T") == "CANCELLED"
    entry = head.ledger.read(head.name if allocation == "stage" else WORKER)
    assert entry is not None
    assert entry.ended == ("cancelled" if allocation == "stage" else "stopped")
