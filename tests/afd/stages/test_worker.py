"""The worker as a real process: children that finish, fail, die, hang or are given up.

Its stages are replaced by ones that do exactly one of these things, so it starts in half a second;
whole campaigns with the real stages run in tests/flows.
"""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from afd.errors import EXIT_CODE
from afd.processes import ProcessId
from afd.runtime.child import Child, Job, reap
from afd.runtime.mailbox import Mailbox, OwnerWatch, code_digest, request_id
from afd.runtime.outcome import Outcome
from afd.runtime.parts import Gather, Part
from afd.runtime.request import StageRequest
from afd.stages import worker as worker_module
from afd.store import Store

PATIENCE_S = 30.0
WORKER = """
import os, signal, sys, time
from pathlib import Path
from afd import signals
from afd.stages import execute, worker
from afd.runtime.outcome import StoppedError

def run(params, inputs, store, work):
    match params["do"]:
        case "finish":
            (work.out / "pid").write_text(str(os.getpid()))
            print("hello from the stage")
            return {"value": 1}
        case "raise":
            raise ZeroDivisionError("a bug")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "step":  # until told to stop
            (work.path / "pid").write_text(str(os.getpid()))
            signals.listen()
            while not signals.stop_requested():
                time.sleep(0.01)
                work.progress(0, 1)
            raise StoppedError("kept")
        case "hang":
            (work.path / "pid").write_text(str(os.getpid()))
            while True:
                time.sleep(0.1)

execute.stage_function = worker.stage_function = lambda stage: run
if sys.argv[2] == "threaded":
    import threading
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
root = Path(sys.argv[1])
limits = {key: float(value) for key, value in (item.split("=") for item in sys.argv[3:])}
worker.serve(worker.Job(root / "box", root / "store", root / "logs", 1, 2, **limits))
"""


def request(do: str, number: int = 0) -> StageRequest:
    return StageRequest(stage="prompts", params={"do": do, "number": number}, inputs={})


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def start(root: Path, kind: str = "plain", **limits: float) -> "subprocess.Popen[str]":
    Mailbox(root / "box").create().own()
    given = [f"{key}={value}" for key, value in limits.items()]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root), kind, *given], stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def worker(tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    process = start(tmp_path)
    yield process
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def outcome(root: Path, asked: StageRequest) -> Outcome:
    box = Mailbox(root / "box")
    name = box.submit(asked)
    until(lambda: box.outcome(name))
    found = box.outcome(name)
    assert found is not None
    return found


@pytest.mark.usefixtures("worker")
def test_each_way_to_end_is_an_outcome_and_the_worker_goes_on(tmp_path: Path) -> None:
    done = outcome(tmp_path, request("finish"))
    assert (done.status, done.exit_code) == ("done", 0)
    start, hello, *end = Path(str(done.log)).read_text().splitlines()
    assert "prompts starts on" in start and hello == "hello from the stage"
    assert any("done in" in line for line in end)
    failed = outcome(tmp_path, request("raise"))
    assert failed.status == "failed"
    assert "ZeroDivisionError: a bug" in failed.message
    assert "run the same command again" in failed.message
    assert "Traceback" in Path(str(failed.log)).read_text()
    lost = outcome(tmp_path, request("die"))
    assert (lost.status, lost.exit_code) == ("lost", -signal.SIGKILL)
    assert "SIGKILL" in lost.message
    missing = request("finish").output
    asked = StageRequest(stage="fit", params={"do": "finish"}, inputs={"x": missing})
    Store(tmp_path / "store")
    assert outcome(tmp_path, asked).status == "done"  # its input was made above
    bad = missing.model_copy(update={"fingerprint": "f" * 64})
    assert outcome(tmp_path, asked.model_copy(update={"inputs": {"x": bad}})).status == "store"
    assert outcome(tmp_path, request("finish", 2)).status == "done"


def test_children_are_forks_side_by_side_up_to_the_limit(
    tmp_path: Path, worker: "subprocess.Popen[str]"
) -> None:
    box = Mailbox(tmp_path / "box")
    for number in range(3):
        box.submit(request("hang", number))
    until(lambda: (beat := box.heartbeat()) and len(beat.running) == 2)
    beat = box.heartbeat()
    assert beat is not None
    assert beat.code == code_digest()
    assert beat.pid == worker.pid
    assert len(psutil.Process(worker.pid).children()) == 2
    assert len(box.waiting()) == 1


@pytest.mark.usefixtures("worker")
def test_a_request_given_up_is_killed(tmp_path: Path) -> None:
    box = Mailbox(tmp_path / "box")
    name = box.submit(request("hang"))
    until(lambda: (beat := box.heartbeat()) and beat.running)
    box.cancel(name)
    until(lambda: box.outcome(name))
    assert not box.is_pending(name)


@pytest.mark.usefixtures("worker")
def test_a_request_given_up_before_it_started_never_runs(tmp_path: Path) -> None:
    box = Mailbox(tmp_path / "box")
    for number in range(3):
        box.submit(request("hang", number))
    until(lambda: (beat := box.heartbeat()) and len(beat.running) == 2)
    (waiting,) = box.waiting()
    box.cancel(waiting)
    until(lambda: box.outcome(waiting))
    assert not box.waiting()
    beat = box.heartbeat()
    assert beat is not None
    assert waiting not in beat.running


def test_children_die_with_a_killed_worker(tmp_path: Path, worker: "subprocess.Popen[str]") -> None:
    asked = request("hang")
    Mailbox(tmp_path / "box").submit(asked)
    file = Store(tmp_path / "store").work_path(asked.output) / "pid"
    until(lambda: file.exists() and file.read_text())
    child = int(file.read_text())
    worker.kill()
    worker.wait()
    until(lambda: not psutil.pid_exists(child))


def test_told_to_stop_it_leaves_no_child(tmp_path: Path, worker: "subprocess.Popen[str]") -> None:
    box = Mailbox(tmp_path / "box")
    name = box.submit(request("hang"))
    until(lambda: (beat := box.heartbeat()) and beat.running)
    children = psutil.Process(worker.pid).children()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_S) == 0
    assert not any(child.is_running() for child in children)
    found = box.outcome(name)
    assert found is not None
    assert found.status == "lost"


def test_without_an_owner_it_finishes_what_it_has_and_ends(
    tmp_path: Path, worker: "subprocess.Popen[str]"
) -> None:
    box = Mailbox(tmp_path / "box")
    gone = subprocess.Popen(["sleep", "0.01"])
    owner = ProcessId.of(gone.pid)
    gone.wait()
    (box.folder / "owner.json").write_text(owner.model_dump_json())
    name = box.submit(request("finish"))
    assert worker.wait(PATIENCE_S) == 0
    # Either it was fast enough to end before the request came, or it finished it first.
    assert box.outcome(name) is not None or box.waiting() == [name]


@contextmanager
def running(root: Path, **limits: float) -> "Iterator[subprocess.Popen[str]]":
    process = start(root, **limits)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def asked_of(root: Path, request: StageRequest) -> tuple[Mailbox, str, int]:
    """A request put and begun; its id and the pid of the child."""
    box = Mailbox(root / "box")
    name = box.submit(request)
    file = Store(root / "store").work_path(request.output) / "pid"
    until(lambda: file.exists() and file.read_text())
    return box, name, int(file.read_text())


def test_when_its_time_is_nearly_over_children_keep_their_step(tmp_path: Path) -> None:
    with running(tmp_path, limit_s=8.0, grace_s=5.0) as worker:
        box, name, _ = asked_of(tmp_path, request("step"))
        assert worker.wait(PATIENCE_S) == 0
        found = box.outcome(name)
        assert found is not None
        assert found.status == "stopped"
        assert not box.is_pending(name)


def test_a_child_told_by_slurm_and_by_the_worker_is_told_once(tmp_path: Path) -> None:
    """SLURM sends SIGTERM to every process of a step."""
    with running(tmp_path) as worker:
        box, name, child = asked_of(tmp_path, request("step"))
        os.kill(child, signal.SIGSTOP)
        worker.send_signal(signal.SIGTERM)
        os.kill(child, signal.SIGTERM)
        os.kill(child, signal.SIGCONT)
        assert worker.wait(PATIENCE_S) == 0
        found = box.outcome(name)
        assert found is not None
        assert found.status == "stopped"


def test_a_child_that_hangs_is_ended_and_says_where(tmp_path: Path) -> None:
    with running(tmp_path, hang_s=0.5):
        found = outcome(tmp_path, request("hang"))
        assert (found.status, found.exit_code) == ("lost", -signal.SIGALRM)
        assert "showed no progress for 0.5 s" in found.message
        assert "most recent call first" in Path(str(found.log)).read_text()
        assert outcome(tmp_path, request("finish")).status == "done"


def test_a_later_worker_takes_over_what_the_earlier_one_was_at(tmp_path: Path) -> None:
    """A job requeued while its old step goes on: both serve one mailbox."""
    with running(tmp_path) as earlier:
        box, name, child = asked_of(tmp_path, request("step"))
        with running(tmp_path) as later:
            assert earlier.wait(PATIENCE_S) == 0
            until(lambda: not psutil.pid_exists(child))
            if (found := box.outcome(name)) is not None:  # it met the earlier child's lock
                assert found.status == "busy"
                box.submit(request("step"))
            until(lambda: (beat := box.heartbeat()) and beat.running == (name,))
            beat = box.heartbeat()
            assert beat is not None
            assert (beat.pid, beat.term) == (later.pid, 2)


@pytest.mark.usefixtures("worker")
def test_a_worker_may_be_asked_for_pieces(tmp_path: Path) -> None:
    """Under names of their own; a stage that cannot be split refuses."""
    box, asked = Mailbox(tmp_path / "box"), request("finish")
    names = [box.submit(asked, Part(index=i, num_parts=2)) for i in range(2)]
    assert len(set(names)) == 2
    for name in names:
        until(lambda name=name: box.outcome(name))
        found = box.outcome(name)
        assert found is not None
        assert found.status == "refused"
        assert "at most" in found.message
    name = box.submit(asked, Gather(num_parts=2))
    until(lambda: box.outcome(name))
    assert Store(tmp_path / "store").have(asked.output)


def test_an_owner_on_another_host_must_be_heard(tmp_path: Path) -> None:
    box = Mailbox(tmp_path).create()
    watch = OwnerWatch(box, silence_s=0.2)
    assert not watch.is_alive()
    there = ProcessId.current().model_copy(update={"host": "elsewhere", "pid": 1})
    for beat in (1, 2):
        (tmp_path / "owner.json").write_text(
            there.model_copy(update={"beat": beat}).model_dump_json()
        )
        assert watch.is_alive()
        time.sleep(0.3)
        assert not watch.is_alive()
    box.own()
    assert watch.is_alive()
    time.sleep(0.3)
    assert watch.is_alive()  # on this host it is seen to run


def test_an_owner_of_the_same_number_is_not_the_owner() -> None:
    me = ProcessId.current()
    assert me.is_alive()
    assert not me.model_copy(update={"created": me.created - 100.0}).is_alive()


def test_it_refuses_to_fork_with_more_than_one_thread(tmp_path: Path) -> None:
    process = start(tmp_path, "threaded")
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "2 threads" in told


def test_the_same_artifact_is_asked_for_once(tmp_path: Path) -> None:
    box = Mailbox(tmp_path / "box").create()
    assert box.submit(request("finish")) == box.submit(request("finish")) == box.waiting()[0]
    assert len(box.waiting()) == 1
    assert request_id(request("finish")) != request_id(request("raise"))


def test_a_full_disk_ends_the_stage_and_not_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcomes and heartbeats that the disk does not take wait until it does."""
    box = Mailbox(tmp_path / "box").create()
    child = Child("fit-1", 0.0, tmp_path / "log", tmp_path / "fit-1.out")
    pid = os.fork()
    if pid == 0:
        os._exit(EXIT_CODE["store"])  # it could not even write its outcome
    children, ended = {pid: child}, dict[str, Outcome]()
    job = Job(tmp_path, tmp_path, tmp_path, 1, 1)
    until(lambda: reap(job, children, ended) or ended)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Mailbox, "finish", full)
        patched.setattr(Mailbox, "beat", full)
        worker_module._write_outcomes(box, ended)
        worker_module._Pulse(box, "code").beat("serving")
    assert list(ended) == ["fit-1"]
    worker_module._write_outcomes(box, ended)
    told = box.outcome("fit-1")
    assert told is not None
    assert told.status == "store"
    assert not ended
