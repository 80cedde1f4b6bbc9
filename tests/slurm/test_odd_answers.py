"""Sites wrap SLURM's programs: what they say besides, too late or not at all is not believed."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.commands import status
from flows.jobs import slurm as slurm_jobs
from flows.jobs import submit
from flows.jobs.records import Job
from flows.jobs.scheduler import Slurm
from flows.jobs.site import Site
from tests.slurm.conftest import RealSlurm, prompts_request, until
from tests.slurm.test_outcomes import Asked
from tests.slurm.test_reattach import Head

Sites = Callable[..., Site]
Wrap = Callable[[str, str], Path]


@pytest.fixture
def wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wrap:
    """Put a script before one of the programs, "$real"; return the file that notes its calls."""
    folder = tmp_path / "wrapped"
    folder.mkdir()
    before = os.environ["PATH"]

    def make(program: str, script: str) -> Path:
        calls, file = folder / f"{program}.calls", folder / program
        real = shutil.which(program, path=before)
        text = f'#!/bin/bash\nreal={real}\necho "$@" >> {calls}\n{script}\n'
        part = file.with_suffix(".part")  # it may be called at any moment
        part.write_text(text)
        part.chmod(0o755)
        part.replace(file)
        calls.touch()
        monkeypatch.setenv("PATH", f"{folder}:{before}")
        return calls

    return make


@pytest.fixture
def held(slurm: RealSlurm) -> Iterator[Callable[[], None]]:
    """Nothing starts before it is called."""

    def go() -> None:
        slurm.ask("scontrol", "update", "partition=main", "state=up")

    slurm.ask("scontrol", "update", "partition=main", "state=down")
    yield go
    go()


@pytest.fixture
def foreign(slurm: RealSlurm) -> Iterator[str]:
    """The number of another job of this user, which waits."""
    command = ("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true")
    job_id = slurm.ask(*command)
    yield job_id
    slurm.ask("scancel", job_id)


def jobs(asked: Asked) -> list[str]:
    """The stage's jobs, by the real program."""
    squeue = shutil.which("squeue", path=os.environ["PATH"].partition("wrapped:")[2] or None)
    assert squeue is not None
    command = (squeue, "-h", "--states=all", "-o", "%i", "--name", f"afd-{asked.name}")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def state(slurm: RealSlurm, job_id: str) -> str:
    shown = slurm.ask("scontrol", "-o", "show", "job", job_id)
    return shown.partition("JobState=")[2].split()[0]


def test_a_job_that_squeue_does_not_list_is_neither_doubled_nor_given_up(
    site: Sites,
    slurm: RealSlurm,
    held: Callable[[], None],
    wrap: Wrap,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slurm_jobs, "APPEAR_S", 0.1)
    calls = wrap("squeue", 'exec $real "$@"')
    asked = Asked(site("unlisted"), prompts_request(seed=31))
    until(lambda: asked.seen()[0] == "PENDING")
    for odd in ("exit 0", "echo 'NOTICE | quota | 97 %'", "echo '| | | | | | |'", "exit 7"):
        wrap("squeue", odd)
        num_before = len(calls.read_text().splitlines())
        until(lambda n=num_before: len(calls.read_text().splitlines()) > n + 3)
        assert len(jobs(asked)) == 1
        assert asked.outcome is None
    held()
    assert asked.end().status == "done"
    assert len(jobs(asked)) == 1


def test_ours_is_the_job_with_our_comment_whatever_sbatch_says(
    site: Sites, slurm: RealSlurm, wrap: Wrap, foreign: str
) -> None:
    unclear = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    odd = [
        f'echo "Your last job {foreign} is RUNNING"; exec $real "$@"',
        f'echo {foreign}; exec $real "$@"',  # a number alone on its line
        f'echo {foreign}; $real "$@" >/dev/null',  # for its own
        '$real "$@" >/dev/null',  # mute
        f'$real "$@" >/dev/null; echo "{unclear}" >&2; exit 1',
    ]
    begun: list[tuple[Asked, str]] = []
    for number, script in enumerate(odd):
        calls = wrap("sbatch", script)
        asked = Asked(site("banner"), prompts_request(seed=40 + number))
        until(lambda one=asked: (entry := one.ledger.read(one.name)) and entry.job_id)
        entry = asked.ledger.read(asked.name)
        assert entry is not None
        begun.append((asked, entry.job_id))
        assert len(calls.read_text().splitlines()) == number + 1
    for asked, job_id in begun:
        assert asked.end().status == "done"
        assert jobs(asked) == [job_id]
    assert state(slurm, foreign) == "PENDING"


def test_a_number_that_is_another_jobs_by_now_is_not_waited_for_and_not_cancelled(
    slurm: RealSlurm, foreign: str
) -> None:
    gone = Job(job_id=foreign, kind="slurm", token="afd-of-a-job-that-is-gone")
    queue = Slurm()
    assert queue.states([gone]) == {}
    queue.cancel([gone])
    assert state(slurm, foreign) == "PENDING"


def test_a_submission_that_took_nothing_is_tried_again(
    site: Sites, wrap: Wrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One patience for a stage's job and for a worker."""
    monkeypatch.setattr(submit, "FIRST_PAUSE_S", 0.2)
    refused = tmp_path / "refused"
    words = "sbatch: error: Batch job submission failed: Unable to contact slurm controller"
    odd = f'[ -e {refused} ] && exec $real "$@"; touch {refused}; echo "{words}" >&2; exit 1'
    calls = wrap("sbatch", odd)
    assert Asked(site("again"), prompts_request(seed=32)).end().status == "done"
    assert len(calls.read_text().splitlines()) == 2


def test_a_head_that_died_before_it_was_told_the_number_leaves_a_job_that_runs(
    slurm: RealSlurm, wrap: Wrap, tmp_path: Path
) -> None:
    request = prompts_request(seed=33)
    wrap("sbatch", '$real "$@" >/dev/null; kill -KILL $PPID')
    killed = Head(tmp_path, "demo", request)
    assert killed.ends()[0] == -signal.SIGKILL
    wrap("sbatch", "exit 1")  # no other job is needed
    assert Head(tmp_path, "demo", request).ends() == (0, "done \n")
    assert len(slurm.jobs(f"afd-{killed.name}")) == 1


def test_a_squeue_that_hangs_delays_neither_the_stages_end_nor_status_nor_a_cancel(
    site: Sites,
    slurm: RealSlurm,
    held: Callable[[], None],
    wrap: Wrap,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = site("hanging")
    (here.folder / "rounds").mkdir(parents=True)
    (here.folder / "params.yaml").write_text("")
    asked = Asked(here, prompts_request(seed=34))
    until(lambda: asked.seen()[0] == "PENDING")
    calls = wrap("squeue", "exec sleep 300")
    until(calls.read_text)
    monkeypatch.setattr(status, "PATIENCE_S", 0.5)
    found = status.overview(here.folder.parent, here.folder.name)
    assert "squeue did not answer" in found.scheduler_trouble
    (work,) = found.campaigns[0].work
    assert (work.state, work.age[:5]) == ("PENDING", "seen ")
    other = Asked(here, prompts_request(seed=35))
    until(lambda: (entry := other.ledger.read(other.name)) and entry.job_id)
    other.jobs.close()
    entry = other.ledger.read(other.name)
    assert entry is not None
    until(lambda: state(slurm, entry.job_id) == "CANCELLED")
    held()
    assert asked.end().status == "done"
