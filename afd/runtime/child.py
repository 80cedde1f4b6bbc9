"""Forked child of the worker: one stage and its outcome.

A child that left no outcome file (killed, disk full) is diagnosed by its exit code.
"""

import ctypes
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

from afd import signals
from afd.errors import EXIT_CODE, Status
from afd.runtime import stage_log
from afd.runtime.mailbox import Mailbox
from afd.runtime.outcome import Outcome, explain, status_of
from afd.runtime.parts import StageTask
from afd.store import write_atomic

PR_SET_PDEATHSIG = 1
GRACE_S = 30.0  # what SLURM leaves between SIGTERM and SIGKILL by default (KillWait)
Compute: TypeAlias = Callable[[StageTask], object]
"""Function that computes one task of the mailbox inside the child."""


@dataclass(frozen=True)
class Job:
    """Settings of a worker; none of them changes a result."""

    mailbox: Path
    store: Path
    logs: Path
    num_threads: int
    num_children: int
    hang_s: float | None = None  # a child that shows no progress for so long is ended
    limit_s: float | None = None  # lifetime of this process; SLURM 22.05 does not report it
    grace_s: float = GRACE_S  # for children to save, when this process must end


@dataclass(frozen=True)
class Child:
    """Stage that is being computed."""

    name: str
    started: float
    log: Path
    outcome: Path  # written by the child just before it leaves


def start(job: Job, box: Mailbox, name: str, compute: Compute) -> tuple[int, Child]:
    """Fork a child for one request; return its pid and record."""
    request_file = box.take(name)
    outcome_file = request_file.with_suffix(".out")
    outcome_file.unlink(missing_ok=True)
    child = Child(name, time.monotonic(), job.logs / f"{name}.log", outcome_file)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _run(job, request_file, child, compute, parent)
    return pid, child


def _run(job: Job, request_file: Path, child: Child, compute: Compute, parent: int) -> NoReturn:
    """Compute one stage in the child, write its outcome and exit."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the line above
        for number in signals.STOPPING:
            signal.signal(number, signal.SIG_DFL)
        signals.heed()
        log = os.open(child.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if isinstance(sys.stdout, io.TextIOWrapper):
            # In the log's order and at once; no letter stops a stage.
            sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
        stage_log.write_to_stderr()
        signals.limit_silence(job.hang_s)
        status, message = _outcome_of(job, request_file, child.name, compute)
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
    except OSError as error:  # the exit code alone, where no outcome can be written
        code = EXIT_CODE[status_of(error)]
    finally:
        os._exit(code)


def _outcome_of(job: Job, request_file: Path, name: str, compute: Compute) -> tuple[Status, str]:
    try:
        compute(StageTask.model_validate_json(request_file.read_bytes()))
    except Exception as error:  # noqa: BLE001 (the process's border: every error becomes an outcome)
        status, message = status_of(error), explain(error, name, job.store)
        if status == "failed":
            traceback.print_exc()
        sys.stderr.write(f"{message}\n")
        return status, message
    return "done", ""


def reap(job: Job, children: dict[int, Child], ended: dict[str, Outcome]) -> None:
    """Move every ended child from `children` to `ended` with its outcome."""
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
            is_full = code == EXIT_CODE["store"]
            outcome = _disk_refused(child) if is_full else _lost(job, child, code)
        ended[child.name] = outcome


def given_up(name: str) -> Outcome:
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


def _lost(job: Job, child: Child, code: int) -> Outcome:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with code {code}"
    hint = "; out of memory is the usual reason" if code == -signal.SIGKILL else ""
    if code == -signal.SIGALRM:
        how = f"showed no progress for {job.hang_s} s and was ended"
        hint = "; where it hung stands at the end of its log"
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
