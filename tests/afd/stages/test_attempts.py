"""Two attempts at one artifact as real processes: one node was given up for dead and goes on."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from afd.artifacts import Artifact
from afd.config import Params
from afd.errors import EXIT_CODE
from afd.params import load_params
from afd.runtime.request import StageRequest
from afd.runtime.workspace import reached
from afd.stages import requests
from afd.stages.execute import execute
from afd.store import Store
from tests.afd.stages.conftest import PATIENCE_S, Forge, Run, hashes, with_inputs

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
NUM_STEPS = 6


class Warmstart:
    """A stage of six steps, and what it leaves when nobody disturbs it."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        params = load_params(Params, TINY)
        self.request = requests.warmstart(params, execute(requests.prompts(params), self.store).ref)
        self.whole: Artifact = execute(self.request, self.store)

    def fresh(self, root: Path) -> Store:
        return with_inputs(self.store, self.request, root)


@pytest.fixture(scope="module")
def warmstart(tmp_path_factory: pytest.TempPathFactory) -> Warmstart:
    return Warmstart(tmp_path_factory.mktemp("store"))


def stopped_at(forge: Forge, asked: StageRequest, store: Store, place: str, *more: str) -> Run:
    """An attempt that stands still at a failpoint, as a process that cannot reach its disk does."""
    run = forge.start(asked, store, *more, AFD_FAILPOINT=f"{place}:SIGSTOP")
    deadline = time.monotonic() + PATIENCE_S
    while psutil.Process(run.pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline, run.log
        time.sleep(0.01)
    return run


def unlock(store: Store, asked: StageRequest) -> None:
    """Make the lock worthless, as on a file system without locks between hosts."""
    (store.work_path(asked.output) / "lock").unlink()


def test_while_locks_work_there_is_one_attempt(
    warmstart: Warmstart, forge: Forge, tmp_path: Path
) -> None:
    asked, store = warmstart.request, warmstart.fresh(tmp_path)
    first = stopped_at(forge, asked, store, "warmstart.step:2")
    assert forge.start(asked, store).wait() == EXIT_CODE["busy"]
    first.send(signal.SIGCONT)
    assert first.wait() == 0
    assert hashes(store.load(asked.output)) == hashes(warmstart.whole)


def test_an_attempt_that_was_overtaken_stops_before_its_next_checkpoint(
    warmstart: Warmstart, forge: Forge, tmp_path: Path
) -> None:
    asked, store = warmstart.request, warmstart.fresh(tmp_path)
    first = stopped_at(forge, asked, store, "warmstart.step:2")
    unlock(store, asked)
    second = stopped_at(
        forge, asked, store, "warmstart.step:2"
    )  # goes on from step 1 and stands after step 3
    before = reached(store, asked)
    first.send(signal.SIGCONT)
    assert first.wait() == EXIT_CODE["lost"]
    assert f"overtaken by a later one (process {second.pid} on " in first.log
    assert "publishes nothing" in first.log
    assert "Traceback" not in first.log
    assert reached(store, asked) == before
    assert not store.have(asked.output)
    second.send(signal.SIGCONT)
    assert second.wait() == 0
    assert "resumed from step 1 " in second.log
    assert hashes(store.load(asked.output)) == hashes(warmstart.whole)


@pytest.mark.parametrize("step", [2, NUM_STEPS])
def test_an_attempt_that_wakes_after_the_artifact_was_published_leaves_it_alone(
    warmstart: Warmstart, forge: Forge, tmp_path: Path, step: int
) -> None:
    """In the middle, or when nothing but publishing is left to do."""
    asked, store = warmstart.request, warmstart.fresh(tmp_path)
    first = stopped_at(forge, asked, store, f"warmstart.step:{step}")
    unlock(store, asked)
    assert forge.start(asked, store).wait() == 0
    made = store.load(asked.output)
    stamp = (made.path / "manifest.json").stat().st_mtime_ns
    first.send(signal.SIGCONT)
    assert first.wait() == EXIT_CODE["lost"]
    assert "publishes nothing" in first.log
    assert store.load(asked.output, verify=True) == made
    assert (made.path / "manifest.json").stat().st_mtime_ns == stamp
    assert hashes(made) == hashes(warmstart.whole)
    store.tidy()
    assert not store.work_path(asked.output).exists()


def test_of_two_that_publish_at_once_one_is_there(
    warmstart: Warmstart, forge: Forge, tmp_path: Path
) -> None:
    """Both are past every check: the rename decides."""
    asked, store = warmstart.request, warmstart.fresh(tmp_path)
    first = stopped_at(forge, asked, store, "store.before_publish:1")
    unlock(store, asked)
    second = forge.start(asked, store)
    first.send(signal.SIGCONT)
    codes = {first.wait(), second.wait()}
    assert 0 in codes
    assert codes <= {0, EXIT_CODE["lost"]}
    assert hashes(store.load(asked.output, verify=True)) == hashes(warmstart.whole)


@pytest.mark.parametrize("told", ["SIGTERM", "SIGUSR2", "SIGINT"])
def test_told_to_stop_it_keeps_its_step_and_the_next_attempt_goes_on(
    warmstart: Warmstart, forge: Forge, tmp_path: Path, told: str
) -> None:
    asked, store = warmstart.request, warmstart.fresh(tmp_path)
    stopped = forge.start(
        asked,
        store,
        AFD_FAILPOINT=f"warmstart.step:2:{told}",
        AFD_CHECKPOINT_PERIOD_S="1000",  # so this is the first one
    )
    assert stopped.wait() == EXIT_CODE["stopped"]
    assert "told to stop: step 2 is kept" in stopped.log
    again = forge.start(asked, store)
    assert again.wait() == 0
    assert "resumed from step 2 " in again.log
    assert hashes(store.load(asked.output)) == hashes(warmstart.whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here: a full disk at a checkpoint was not tested")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_fills_up_costs_the_checkpoints_and_not_the_training(
    warmstart: Warmstart, forge: Forge, small_disk: Path
) -> None:
    """Training goes on to the end, which needs room; the step kept before is what stays."""
    asked, store = warmstart.request, warmstart.fresh(small_disk / "s")
    run = stopped_at(forge, asked, store, "warmstart.step:2")
    kept = reached(store, asked)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    os.truncate(filler, filler.stat().st_size - (8 << 10))  # enough for the learning curve alone
    run.send(signal.SIGCONT)
    assert run.wait() == EXIT_CODE["store"]
    assert "could not be kept, the disk is full" in run.log
    assert f"kept is {max(kept)}" in run.log
    assert reached(store, asked) == kept
    filler.unlink()
    again = forge.start(asked, store)
    assert again.wait() == 0
    assert "resumed from step 1 " in again.log
    assert hashes(store.load(asked.output)) == hashes(warmstart.whole)
