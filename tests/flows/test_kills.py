"""kill -9 of anything at any moment, the same command again: the same student, bit for bit.

Every named failpoint kills a real process running the real stages of params/tiny.yaml. What each
test also proves: the process did die of signal 9 (so it would fail if nothing were killed), nothing
finished before the kill was made again, and a stage killed between its steps went on from a
checkpoint (so it would fail if resume started afresh).
"""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from afd.failpoints import FAILPOINTS
from afd.runtime.mailbox import Heartbeat, Mailbox
from afd.store import Store
from tests.flows.conftest import CLUSTER, PARAMS, PROJECT, Forge

LAST_ROUND = 1
PATIENCE_S = 240.0
REMOTE = tuple(name for name in FAILPOINTS if name.startswith("harvest."))
# name:count, and whether the killed stage must go on from a checkpoint of its own. One process
# computes all stages here, so counts reach into later rounds.
KILLS: tuple[tuple[str, bool], ...] = (
    ("checkpoint.after_rename:9", True),
    ("harvest.clip_paid:7", False),
    ("fit.step:7", True),
    ("flow.request_written:8", False),
    ("flow.stage_done:5", False),
    ("flow.before_lineage:4", False),
    ("flow.after_versions:2", False),
)
# The same, one campaign and a half each, where `make test` has a cheaper kill at that place.
NIGHTLY_KILLS: tuple[tuple[str, bool, str], ...] = (
    ("store.file_synced:3", False, "tests/afd/test_store.py"),
    ("store.before_manifest:9", False, "tests/afd/test_store.py"),
    ("store.before_publish:10", False, "tests/afd/test_store.py"),
    ("store.after_publish:6", False, "tests/afd/test_store.py"),
    ("checkpoint.before_rename:4", True, "tests/afd/runtime/test_workspace.py"),
    ("warmstart.step:4", True, "tests/afd/stages/test_attempts.py"),
    ("update.step:6", True, "tests/flows/test_alarm_log.py"),
    ("flow.after_lineage:12", False, "tests/flows/test_recorder.py"),
    ("flow.before_versions:2", False, "tests/flows/test_alarm_log.py"),
)


@dataclass
class Whole:
    """The campaign that nobody killed."""

    store: Path
    students: dict[str, dict[str, str]]


def play(forge: Forge, name: str, store: Path, log: Path, failpoint: str = "") -> int:
    """All rounds of the tiny campaign, in one process, without Prefect."""
    arguments = ("round", "--name", name, "--index", str(LAST_ROUND))
    return forge.afd(*arguments, store=store, log=log, failpoint=failpoint)


@pytest.fixture(scope="module")
def whole(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    log = folder / "log"
    assert play(forge, "whole", folder / "store", log) == 0, log.read_text()
    found = contents(folder / "store")
    assert sum(kind == "student_weights" for kind, _ in found) == 1 + 2  # warm start, two rounds
    return Whole(folder / "store", {f"{kind}/{fp}": files for (kind, fp), files in found.items()})


def contents(store: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The content digest of every file of every artifact."""
    return {
        (one.manifest.kind, one.manifest.fingerprint): {
            name: entry.sha256 for name, entry in one.manifest.files.items()
        }
        for one in Store(store).all()
    }


def made_at(store: Path) -> dict[str, int]:
    """When each finished artifact's manifest was written."""
    return {
        one.manifest.fingerprint: (one.path / "manifest.json").stat().st_mtime_ns
        for one in Store(store).all()
    }


def test_every_failpoint_is_killed_somewhere() -> None:
    here = {name.split(":")[0] for name, *_ in (*KILLS, *NIGHTLY_KILLS)}
    # tests/slurm, tests/afd/stages, tests/flows/commands/test_operate.py
    elsewhere = {"flow.job_submitted", "batches.passed", "critic.step", "flow.run_begun"}
    elsewhere |= {name for name in REMOTE if name not in here}  # tests/afd/harvest/test_kills.py
    assert here == set(FAILPOINTS) - elsewhere


@pytest.mark.parametrize(
    ("failpoint", "resumes"),
    [
        *KILLS,
        *(
            pytest.param(name, resumes, marks=pytest.mark.nightly(reason=f"{file} kills there"))
            for name, resumes, file in NIGHTLY_KILLS
        ),
    ],
)
def test_killed_and_run_again_it_ends_bit_identical(
    forge: Forge, whole: Whole, tmp_path: Path, failpoint: str, resumes: bool
) -> None:
    name = re.sub(r"[^a-z0-9]", "-", failpoint)
    store = tmp_path / "store"
    killed = play(forge, name, store, tmp_path / "killed.log", failpoint)
    assert killed == -signal.SIGKILL, (tmp_path / "killed.log").read_text()
    before = made_at(store)
    assert len(before) < len(whole.students)

    assert play(forge, name, store, tmp_path / "again.log") == 0, (
        tmp_path / "again.log"
    ).read_text()
    again = {f"{kind}/{fp}": files for (kind, fp), files in contents(store).items()}
    assert again == whole.students
    after = made_at(store)
    assert {fp: after[fp] for fp in before} == before, "something finished was made again"
    resumed = re.findall(r"resumed from step (\d+)", (tmp_path / "again.log").read_text())
    assert [step for step in resumed if int(step) > 0] == resumed
    assert bool(resumed) or not resumes
    assert not any((store / ".work").iterdir())
    shutil.rmtree(store)


@dataclass
class Stack:
    """The real command line in a process of its own: submitit, worker, Prefect if asked for."""

    folder: Path
    runs: Path

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "flows.cli", "round", "--name", "stack"]
        command += ["--index", str(LAST_ROUND), "--params", str(PARAMS), "--cluster", str(CLUSTER)]
        command += ["--runs", str(self.runs), "--store", str(self.store), *arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                env={**os.environ, "AFD_CHECKPOINT_PERIOD_S": "0", **environment},
                stdout=log,
                stderr=log,
                cwd=PROJECT,
                start_new_session=True,
            )

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def heartbeat(self) -> Heartbeat | None:
        """Of the newest worker."""
        boxes = sorted(
            (self.runs / "stack" / "workers").glob("*"), key=lambda box: box.stat().st_mtime_ns
        )
        return Mailbox(boxes[-1]).heartbeat() if boxes else None

    def wait_for(self, stage: str) -> Heartbeat:
        """Until the worker computes `stage`."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            beat = self.heartbeat()
            if beat is not None and any(name.startswith(stage) for name in beat.running):
                return beat
            time.sleep(0.005)
        raise AssertionError(f"no {stage} was ever computed:\n{self.log.read_text()}")

    def students(self) -> dict[str, dict[str, str]]:
        return {f"{kind}/{fp}": files for (kind, fp), files in contents(self.store).items()}


@pytest.fixture
def stack(tmp_path: Path, forge: Forge) -> Stack:
    return Stack(tmp_path, forge.runs)


@pytest.mark.campaign
def test_a_stage_killed_again_and_again_stops_the_campaign_and_loses_nothing(
    stack: Stack, whole: Whole
) -> None:
    # Before a checkpoint is there: no attempt gets further than the one before it.
    killed = stack.start("--no-prefect", AFD_FAILPOINT="checkpoint.before_rename:1")
    assert killed.wait(PATIENCE_S) == 2
    told = stack.log.read_text()
    assert "SIGKILL" in told
    assert "run the same command again" in told
    assert "Traceback" not in told
    assert not list(stack.store.glob("student_weights/*"))
    before = made_at(stack.store)

    again = stack.start("--no-prefect")
    assert again.wait(PATIENCE_S) == 0, stack.log.read_text()
    assert stack.students() == whole.students
    after = made_at(stack.store)
    assert {fingerprint: after[fingerprint] for fingerprint in before} == before
    shutil.rmtree(stack.runs / "stack")


@pytest.mark.campaign
def test_a_stage_killed_at_every_step_gets_there_a_step_at_a_time(
    stack: Stack, whole: Whole
) -> None:
    flow = stack.start("--no-prefect", AFD_FAILPOINT="update.step:2")
    assert flow.wait(PATIENCE_S) == 0, stack.log.read_text()
    update_logs = (stack.runs / "stack" / "logs").glob("update-*.log")
    assert all("resumed from step" in log.read_text() for log in update_logs)
    assert stack.students() == whole.students
    shutil.rmtree(stack.runs / "stack")


@pytest.mark.nightly(reason="test_operate.py and test_terminal.py interrupt campaigns in make test")
@pytest.mark.campaign
def test_interrupted_it_stops_its_worker_and_lets_go(stack: Stack) -> None:
    flow = stack.start("--no-prefect")
    beat = stack.wait_for("warmstart")
    family = psutil.Process(flow.pid).children(recursive=True)
    flow.send_signal(signal.SIGINT)
    assert flow.wait(PATIENCE_S) == 130
    said = stack.log.read_text()
    assert "stopped, its jobs too: everything finished is kept" in said
    assert "resume stack" in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert not psutil.pid_exists(beat.pid)
    shutil.rmtree(stack.runs / "stack")


@pytest.mark.campaign
def test_flow_then_worker_killed_under_prefect(stack: Stack, whole: Whole) -> None:
    flow = stack.start()
    stack.wait_for("warmstart")
    flow.kill()
    assert flow.wait() == -signal.SIGKILL

    again = stack.start()
    beat = stack.wait_for("fit")
    os.kill(beat.pid, signal.SIGKILL)
    assert again.wait(PATIENCE_S) == 0, stack.log.read_text()  # another worker went on
    assert stack.students() == whole.students
    last = stack.heartbeat()
    assert last is not None
    assert last.pid != beat.pid
    shutil.rmtree(stack.runs / "stack")


def test_nothing_stays_running_in_mlflow(forge: Forge, whole: Whole) -> None:
    del whole
    database = forge.runs / ".services" / "mlflow" / "mlflow.db"
    with sqlite3.connect(database) as connection:
        found = connection.execute("select status, count(*) from runs group by status").fetchall()
    assert dict(found).get("RUNNING", 0) == 0
    assert dict(found)["FINISHED"] > 0
