"""Whatever SLURM does to a job, its stage goes on from its last checkpoint and ends the same."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from afd.config import Params
from afd.config.cluster import Resourced
from afd.params import load_params
from afd.runtime.outcome import Outcome
from afd.runtime.request import StageRequest
from afd.runtime.workspace import reached
from afd.stages import requests
from afd.stages.execute import execute
from afd.store import Store
from flows.dispatch import build, compute
from flows.jobs import slurm as slurm_jobs
from flows.jobs.inside import run_stage
from flows.jobs.records import WORKER, Job, JobRecords
from flows.jobs.site import Site
from tests.slurm import bodies
from tests.slurm.conftest import PROJECT, RealSlurm, prompts_request, until
from tests.slurm.start import doors, files
from tests.slurm.test_outcomes import Asked

NUM_STEPS = 400  # long enough to be met while it computes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[StageRequest, Store]:
    """A warm start that nobody disturbed."""
    params = load_params(
        Params, PROJECT / "params" / "tiny.yaml", (), [f"warmstart.num_steps={NUM_STEPS}"]
    )
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    prompt_set = execute(requests.prompts(params), store).ref
    warmstart = requests.warmstart(params, prompt_set)
    execute(warmstart, store)
    return warmstart, store


@contextlib.contextmanager
def urgent(slurm: RealSlurm, node: str) -> Iterator[None]:
    """Somebody more important needs the whole node."""
    wanted = ("--partition=urgent", f"--nodelist={node}", "--exclusive", "--output=/dev/null")
    job_id = slurm.ask("sbatch", "--parsable", *wanted, "--wrap=sleep 300")
    until(lambda: slurm.ask("squeue", "-h", "-j", job_id, "-o", "%T") == "RUNNING")
    yield
    slurm.ask("scancel", job_id)


def test_requeued_preempted_out_of_time_and_its_node_lost(
    site: Callable[..., Site],
    slurm: RealSlurm,
    made: tuple[StageRequest, Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One stage meets all of it, and its artifact is that of the stage nobody disturbed."""
    monkeypatch.setenv("AFD_CHECKPOINT_PERIOD_S", "0.1")
    request, undisturbed = made
    here = site("disturbed", "slurm.warn_s=5", "resources.every_stage.mem_gb=2")
    execute(requests.prompts(load_params(Params, PROJECT / "params" / "tiny.yaml")), here.store)
    asked = Asked(here, request)
    met = set[int]()

    def further() -> str:
        """Until another process has left a checkpoint of its own; the number of its job."""
        (door,) = until(lambda: [one for one in doors(here.store) if one.pid not in met])
        met.add(door.pid)
        before = reached(here.store, request)
        until(lambda: reached(here.store, request) - before)
        entry = asked.ledger.read(asked.name)
        assert entry is not None
        return entry.job_id

    job_id = further()
    slurm.ask("scontrol", "requeue", job_id)
    assert further() == job_id  # the same job again

    with urgent(slurm, slurm.ask("squeue", "-h", "-j", job_id, "-o", "%N")):
        job_id = further()

    for door in doors(here.store):  # it neither computes nor hears the warning
        door.send_signal(signal.SIGSTOP)
    slurm.ask("scontrol", "update", f"jobid={job_id}", "EndTime=now+1")
    job_id = further()

    node = slurm.ask("squeue", "-h", "-j", job_id, "-o", "%N")
    (old,) = doors(here.store)
    old.send_signal(signal.SIGSTOP)
    (here.store.work_path(request.output) / "lock").unlink()  # locks that do not reach other hosts
    slurm.do("node-down", node)
    try:
        assert asked.end().status == "done"
        old.send_signal(signal.SIGCONT)  # the step that was believed dead goes on
        psutil.wait_procs([old], timeout=60)
        assert not old.is_running()
    finally:
        slurm.do("node-up", node)
        with contextlib.suppress(psutil.NoSuchProcess):
            old.kill()

    assert files(here.store, request) == files(undisturbed, request)
    logs = "".join(log.read_text() for log in Path(here.submitit).glob("*_log.out"))
    assert logs.count("resumed from step") >= 4
    assert "SIGUSR2: finishing this step" in logs  # the preempted one was asked, and listened
    (only,) = (here.store.root / "student_weights").iterdir()
    assert only == here.store.path(request.output)


def test_cancelled_while_its_step_lives_on_a_lost_node_it_stops_and_publishes_nothing(
    site: Callable[..., Site],
    slurm: RealSlurm,
    made: tuple[StageRequest, Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SLURM can tell that step nothing: it reads it from the shared disk."""
    monkeypatch.setenv("AFD_CHECKPOINT_PERIOD_S", "0.1")
    request, undisturbed = made
    here = site("lost-node", "resources.every_stage.mem_gb=2")
    execute(requests.prompts(load_params(Params, PROJECT / "params" / "tiny.yaml")), here.store)
    asked = Asked(here, request)
    (old,) = until(lambda: doors(here.store))
    until(lambda: reached(here.store, request))
    entry = asked.ledger.read(asked.name)
    assert entry is not None
    node = slurm.ask("squeue", "-h", "-j", entry.job_id, "-o", "%N")
    old.send_signal(signal.SIGSTOP)  # so that it is met when it is nearly done, at the latest
    slurm.do("node-down", node)
    try:
        asked.jobs.close()  # what Ctrl-C does
        old.send_signal(signal.SIGCONT)
        psutil.wait_procs([old], timeout=60)
        assert not old.is_running()
        assert not here.store.have(request.output)
        assert reached(here.store, request)  # kept, to go on from
    finally:
        slurm.do("node-up", node)
        with contextlib.suppress(psutil.NoSuchProcess):
            old.kill()
    again = Asked(here, request)
    assert again.end(120).status == "done"
    assert files(here.store, request) == files(undisturbed, request)


def test_a_stage_is_not_given_up_because_an_old_step_still_computes_it(
    site: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Where nodes share locks the later attempt gives way to whoever holds the stage, and waits.

    That it is held is a sign of life: what died before is not counted with what dies after.
    """
    acts = iter([bodies.dies, run_stage, bodies.dies, run_stage])
    really = slurm_jobs.submit_slurm

    def submit(here: Site, name: str, token: str, stage: Resourced, _: object, *told: Any) -> Job:
        return really(here, name, token, stage, next(acts), *told)

    monkeypatch.setattr(slurm_jobs, "submit_slurm", submit)
    monkeypatch.setattr(slurm_jobs, "BUSY_S", 0.5)
    monkeypatch.setattr(slurm_jobs, "APPEAR_S", 0.2)
    here = site("old-step", "slurm.max_idle_attempts=2")
    request = prompts_request(num_held_out=5)
    with here.store.attempt(request.output):  # by the step that SLURM believes dead
        asked = Asked(here, request)
        until(lambda: (entry := asked.ledger.read(asked.name)) and len(entry.jobs) == 3)
    assert asked.end().status == "done"
    told = capfd.readouterr().err
    assert f"process {os.getpid()} on {socket.gethostname()}" in told
    assert told.count("it is asked for again") == 1


def test_a_pilot_whose_time_is_nearly_over_hands_over_to_another(
    site: Callable[..., Site],
    slurm: RealSlurm,
    made: tuple[StageRequest, Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SLURM's warning before the limit comes here when it is wanted; the stage loses no step."""
    monkeypatch.setenv("AFD_CHECKPOINT_PERIOD_S", "0.1")
    request, undisturbed = made
    here = site("pilot", "allocation=campaign", "resources.worker.mem_gb=4")
    execute(requests.prompts(load_params(Params, PROJECT / "params" / "tiny.yaml")), here.store)
    dispatch = build(here)
    outcomes: list[Outcome] = []
    waiting = threading.Thread(
        target=lambda: outcomes.append(compute(dispatch, here, request)), daemon=True
    )
    waiting.start()
    until(lambda: reached(here.store, request))
    ledger = JobRecords(here.folder / "ledger")
    first = ledger.read(WORKER)
    assert first is not None
    slurm.ask("scancel", "--signal=USR2", first.job_id)
    waiting.join(240)
    assert [outcome.status for outcome in outcomes] == ["done"]
    second = ledger.read(WORKER)
    assert second is not None
    assert second.job_id != first.job_id
    assert second.attempts == 2
    state = slurm.ask("squeue", "-h", "--states=all", "-j", first.job_id, "-o", "%T")
    assert state == "COMPLETED"
    dispatch.close()
    assert files(here.store, request) == files(undisturbed, request)
    told = "".join(log.read_text() for log in here.logs.glob("*.log"))
    assert "finishing this step, then leaving" in told
    assert "resumed from step" in told
