"""A preloaded parent that forks one child per stage request, so that many small stages are cheap.

Importing torch and diffusers costs seconds, forking costs milliseconds (docs/granularity.md). The
parent imports everything once, stays single-threaded and never computes: a child forked from a
process that ever ran two compute threads would hang in its first parallel region. A child is one
`door.execute`, so an artifact, a manifest, a log and a place to resume from remain one per stage.
"""

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, get_args

import psutil

from afd.artifacts import MadeBy
from afd.stages.__main__ import read_request
from afd.stages.door import describe_maker, execute, limit_threads, stage_function
from afd.stages.mailbox import Heartbeat, Mailbox, code_digest
from afd.stages.outcome import EXIT_CODE, Outcome, Status, explain, status_of
from afd.stages.request import StageName
from afd.store import Store, write_atomic

POLL_S = 0.01  # 100 directory scans a second: below 1 % of a core
BEAT_S = 1.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """What a worker needs to know: circumstance only."""

    mailbox: Path
    store: Path
    logs: Path
    num_threads: int
    num_children: int


@dataclass(frozen=True)
class Child:
    """A stage being computed."""

    name: str
    started: float
    log: Path
    outcome: Path  # written by the child just before it leaves


def serve(job: Job) -> None:
    """Compute requests until told to stop, or until nobody owns the mailbox and nothing is left."""
    limit_threads(job.num_threads)
    code = code_digest()  # before the imports: a file edited meanwhile makes it stale, not wrong
    box = Mailbox(job.mailbox).create()
    pulse = _Pulse(box, code)
    pulse.beat("loading")
    preload()
    made_by = describe_maker()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda *_: box.stop())
    job.logs.mkdir(parents=True, exist_ok=True)
    children: dict[int, Child] = {}
    ended: dict[str, Outcome] = {}
    while not box.is_stopped():
        _reap(children, ended)
        _tell(box, ended)
        given_up = box.cancelled()
        for child_pid, child in children.items():
            if child.name in given_up:
                os.kill(child_pid, signal.SIGKILL)
        waiting = box.waiting()
        for name in given_up.intersection(waiting):
            box.take(name)
            ended[name] = _given_up(name)
        free = job.num_children - len(children)
        for name in [name for name in waiting if name not in given_up][:free]:
            pid, child = _start(job, box, name, made_by)
            children[pid] = child
        pulse.beat("serving", tuple(child.name for child in children.values()))
        if not waiting and not children and not box.is_owned():
            break
        time.sleep(POLL_S)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    while children:
        _reap(children, ended)
        time.sleep(POLL_S)
    _tell(box, ended)


def preload() -> None:
    """Import every stage once; refuse to serve if that left more than one thread."""
    gc.disable()  # nothing to collect while importing: a quarter of the time
    for stage in get_args(StageName):
        stage_function(stage)
    gc.enable()
    gc.freeze()  # shared pages stay shared: a collection in a child would copy them
    num_threads = psutil.Process().num_threads()
    if num_threads != 1:
        raise RuntimeError(
            f"the worker has {num_threads} threads after its imports and may not fork: "
            "a module starts threads or computes when it is imported"
        )


class _Pulse:
    """The heartbeat, written when it changes and else about once a second."""

    def __init__(self, box: Mailbox, code: str) -> None:
        self._box, self._code = box, code
        self._told: Heartbeat | None = None
        self._told_at = 0.0

    def beat(self, state: Literal["loading", "serving"], running: tuple[str, ...] = ()) -> None:
        heartbeat = Heartbeat(
            pid=os.getpid(),
            host=socket.gethostname(),
            code=self._code,
            state=state,
            running=running,
        )
        if heartbeat != self._told or time.monotonic() - self._told_at > BEAT_S:
            with contextlib.suppress(OSError):  # a full disk must not end what others wait for
                self._box.beat(heartbeat)
            self._told, self._told_at = heartbeat, time.monotonic()


def _start(job: Job, box: Mailbox, name: str, made_by: MadeBy) -> tuple[int, Child]:
    """Fork a child for one request."""
    request_file = box.take(name)
    outcome_file = request_file.with_suffix(".out")
    outcome_file.unlink(missing_ok=True)
    child = Child(name, time.monotonic(), job.logs / f"{name}.log", outcome_file)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _compute(job, request_file, child, made_by, parent)
    return pid, child


def _compute(job: Job, request_file: Path, child: Child, made_by: MadeBy, parent: int) -> NoReturn:
    """The child: one stage, its outcome, and out, whatever happens."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the line above
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(child.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status, message = _outcome_of(job, request_file, child.name, made_by)
        code = EXIT_CODE[status]
        sys.stdout.flush()
        sys.stderr.flush()
        outcome = Outcome(
            status=status,
            message=message,
            exit_code=code,
            wall_s=time.monotonic() - child.started,
            log=str(child.log),
        )
        write_atomic(child.outcome, outcome.model_dump_json().encode())
    except OSError as error:  # the code alone says it where no outcome can be written
        code = EXIT_CODE[status_of(error)]
    finally:
        os._exit(code)


def _outcome_of(job: Job, request_file: Path, name: str, made_by: MadeBy) -> tuple[Status, str]:
    try:
        execute(read_request(request_file), Store(job.store), job.num_threads, made_by)
    except Exception as error:  # noqa: BLE001 (the process's border: every error becomes an outcome)
        traceback.print_exc()
        return status_of(error), explain(error, name, job.store)
    return "done", ""


def _reap(children: dict[int, Child], ended: dict[str, Outcome]) -> None:
    """Collect children that ended, one way or another."""
    for pid in list(children):
        reaped, wait_status = os.waitpid(pid, os.WNOHANG)
        if not reaped:
            continue
        child = children.pop(pid)
        code = os.waitstatus_to_exitcode(wait_status)
        try:
            outcome = Outcome.model_validate_json(child.outcome.read_bytes())
            child.outcome.unlink()
        except FileNotFoundError:
            outcome = _disk_refused(child) if code == EXIT_CODE["store"] else _lost(child, code)
        ended[child.name] = outcome


def _tell(box: Mailbox, ended: dict[str, Outcome]) -> None:
    """Write outcomes; what a full disk does not take stays in `ended` and is written later."""
    with contextlib.suppress(OSError):
        for name in list(ended):
            box.finish(name, ended[name])
            del ended[name]


def _given_up(name: str) -> Outcome:
    message = f"{name}: given up before it started; run the same command again"
    return Outcome(status="lost", message=message, exit_code=-signal.SIGKILL, wall_s=0.0, log=None)


def _disk_refused(child: Child) -> Outcome:
    return Outcome(
        status="store",
        message=(
            f"{child.name}: the disk refused what it wrote; see `df -h {child.log.parent}`\n"
            "  everything finished is kept; free some space and run the same command again"
        ),
        exit_code=EXIT_CODE["store"],
        wall_s=time.monotonic() - child.started,
        log=str(child.log),
    )


def _lost(child: Child, code: int) -> Outcome:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with code {code}"
    hint = "; out of memory is the usual reason" if code == -signal.SIGKILL else ""
    return Outcome(
        status="lost",
        message=(
            f"{child.name}: its process {how}{hint}\n"
            "  every finished artifact and the stage's last checkpoint are kept\n"
            "  run the same command again to go on from there"
        ),
        exit_code=code,
        wall_s=time.monotonic() - child.started,
        log=str(child.log),
    )
