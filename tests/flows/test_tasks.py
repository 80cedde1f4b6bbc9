"""Stages side by side: what one of them does to the others when it ends badly."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from afd.artifacts import ArtifactRef
from afd.config import Cluster, Params
from afd.params import load_params
from afd.runtime.mailbox import request_id
from afd.runtime.request import StageRequest
from afd.stages import requests
from afd.stages.execute import execute
from afd.store import Store
from flows import dispatch, tasks
from flows.dispatch import StageFailedError
from flows.jobs import worker_handle
from flows.jobs.records import Job, JobRecords, StageRecord
from flows.jobs.site import GivenUpError, Site
from flows.session import Session
from flows.tasks import ComputedStages
from tests.flows import hanging
from tests.flows.conftest import CLUSTER, PARAMS

HANG = StageRequest(stage="prompts", params={"prompts": {}, "seed": 1}, inputs={})
FAIL = StageRequest(stage="prompts", params={"prompts": {}, "seed": 2}, inputs={})


class Unrecorded:
    """A recorder that records nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: nullcontext() if name == "computing" else None


def session(folder: Path, allocation: str) -> Session:
    cluster = load_params(Cluster, CLUSTER, (), [f"allocation={allocation}"])
    site = Site(Store(folder / "store"), folder / "runs" / "demo", cluster)
    params = load_params(Params, PARAMS, (), ())
    none = cast("Any", Unrecorded())
    return Session("demo", params, site, dispatch.build(site), none, none)


def pids(folder: Path, num: int) -> set[int]:
    """Of the processes that computed, once there are `num`."""
    deadline = time.monotonic() + 20
    while len(files := [f for f in folder.rglob("*pid") if f.read_text()]) < num:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return {int(file.read_text()) for file in files}


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(worker_handle, "serve", hanging.worker)
    monkeypatch.setattr(dispatch, "run_stage", hanging.door)
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    yield
    left = [child for child in me.children(recursive=True) if child.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    for child in alive:
        child.kill()
    assert not alive


def given_up(begun: Any) -> bool:
    with pytest.raises(GivenUpError):
        begun.result()
    return True


def gone(known: set[int]) -> bool:
    """Whether they end; on a busy machine the kernel takes its time with a killed process."""
    deadline = time.monotonic() + 10
    while any(map(is_living, known)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_living(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("allocation", ["campaign", "stage"])
def test_closing_ends_a_stage_that_hangs_and_nothing_starts_again(
    tmp_path: Path, allocation: str
) -> None:
    held = session(tmp_path, allocation)
    begun = ComputedStages(held, 0).begin(HANG)
    known = pids(tmp_path, 1)
    held.dispatch.close()  # as Ctrl-C does while something else is waited for
    assert given_up(begun)
    with pytest.raises(GivenUpError):
        held.dispatch.attempt(FAIL)
    assert gone(known)
    assert pids(tmp_path, 1) == known


@pytest.mark.parametrize("fails", ["begun", "waited_for"])
def test_a_stage_that_fails_is_heard_while_the_one_beside_it_hangs(
    tmp_path: Path, fails: str
) -> None:
    """Whichever of the two fails, its error is raised, and the other one, of 10 minutes, ends."""
    held = session(tmp_path, "stage")
    played = ComputedStages(held, 0)
    first, second = (FAIL, HANG) if fails == "begun" else (HANG, FAIL)
    begun = played.begin(first)
    with pytest.raises(StageFailedError) as caught:
        played.make(second)
    assert caught.value.request == FAIL
    assert fails == "begun" or given_up(begun)
    assert gone(pids(tmp_path, 2))


def test_an_interrupted_wait_for_a_begun_stage_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = session(tmp_path, "stage")

    class Interrupted:
        def result(self) -> ArtifactRef:
            raise KeyboardInterrupt

    threads = SimpleNamespace(submit=lambda *_: Interrupted())
    monkeypatch.setattr(tasks, "_threads", lambda: threads)
    with pytest.raises(KeyboardInterrupt):
        ComputedStages(held, 0).begin(HANG).result()
    with pytest.raises(GivenUpError):
        held.dispatch.attempt(HANG)


def test_a_worker_of_another_size_is_not_adopted_even_while_it_loads(tmp_path: Path) -> None:
    held = session(tmp_path, "campaign")
    held.dispatch.start()
    known = pids(tmp_path, 1)  # it has no heartbeat, ever
    cluster = held.site.cluster.model_copy(update={"num_children": 5})
    other = dispatch.build(replace(held.site, cluster=cluster))
    other.start()
    assert len(pids(tmp_path, 2)) == 2
    assert gone(known)
    other.close()
    held.dispatch.close()


def test_an_artifact_that_was_made_while_no_head_lived_ends_its_entry(tmp_path: Path) -> None:
    here = session(tmp_path, "stage")
    request = requests.prompts(here.params)
    execute(request, here.site.store)
    ledger = JobRecords(here.site.folder / "ledger")
    left = StageRecord(
        name=request_id(request),
        stage="prompts",
        fingerprint=request.output.fingerprint,
        folder="",
        jobs=(Job(job_id="7", kind="slurm", token="afd-7"),),
        attempts=1,
        submitted_at="",
    )
    ledger.write(left)
    tasks.make(here, request, None)
    entry = ledger.read(left.name)
    assert entry is not None
    assert entry.ended == "done"
