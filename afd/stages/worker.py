"""Preloaded worker that forks one child for each stage request.

Importing torch and diffusers takes seconds, forking takes milliseconds (docs/granularity.md). The
parent imports everything once, stays single-threaded and never computes: a child forked from a
process that ever ran two compute threads would hang in its first parallel region. A child executes
one task, so artifact, manifest, log and checkpoints remain one for each stage.
"""

import contextlib
import gc
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Literal, get_args

import psutil

from afd import signals
from afd.attempts import CANCELLED
from afd.runtime.child import Child, Job, given_up, reap, start
from afd.runtime.mailbox import Heartbeat, Mailbox, OwnerWatch, code_digest
from afd.runtime.outcome import Outcome
from afd.runtime.parts import StageTask
from afd.runtime.request import StageName
from afd.stages.execute import describe_maker, limit_threads, run_task, stage_function
from afd.store import Store

POLL_S = 0.01  # 100 directory scans a second: below 1 % of a core
BEAT_S = 1.0


def serve(job: Job) -> None:
    """Compute requests until a stop, the time limit, or an empty mailbox without owner."""
    limit_threads(job.num_threads)
    ending = _Ending(job)
    code = code_digest()  # before the imports: a file edited meanwhile makes it stale, not wrong
    box = Mailbox(job.mailbox).create()
    os.environ[CANCELLED] = str(box.stop_file.resolve())  # a stopped worker publishes nothing
    pulse = _Pulse(box, code)
    watch = OwnerWatch(box)
    preload(lambda: pulse.beat("loading"))
    store, made_by = Store(job.store), describe_maker()

    def compute(task: StageTask) -> None:
        run_task(task, store, job.num_threads, made_by)

    box.take_back()
    job.logs.mkdir(parents=True, exist_ok=True)
    children: dict[int, Child] = {}
    ended: dict[str, Outcome] = {}
    while not (box.is_stopped() or ending.is_due() or pulse.is_overtaken):
        reap(job, children, ended)
        _write_outcomes(box, ended)
        cancelled = box.cancelled()
        for child_pid, child in children.items():
            if child.name in cancelled:
                os.kill(child_pid, signal.SIGKILL)
        waiting = box.waiting()
        for name in cancelled.intersection(waiting):
            box.take(name)
            ended[name] = given_up(name)
        free = job.num_children - len(children)
        for name in [name for name in waiting if name not in cancelled][:free]:
            pid, child = start(job, box, name, compute)
            children[pid] = child
        pulse.beat("serving", tuple(child.name for child in children.values()))
        if not waiting and not children and not watch.is_alive():
            break
        time.sleep(POLL_S)
    _end(job, children, ended, at_once=not ending.is_due())
    if not pulse.is_overtaken:
        _write_outcomes(box, ended)


class _Ending:
    """End of this process: by a signal, or before its time limit."""

    def __init__(self, job: Job) -> None:
        limit_s = math.inf if job.limit_s is None else max(0.0, job.limit_s - job.grace_s)
        self._at = time.monotonic() + limit_s
        self._is_signalled = False
        for number in signals.STOPPING:
            signal.signal(number, self._on_signal)

    def is_due(self) -> bool:
        return self._is_signalled or time.monotonic() > self._at

    def _on_signal(self, *_: object) -> None:
        self._is_signalled = True


def _end(job: Job, children: dict[int, Child], ended: dict[str, Outcome], *, at_once: bool) -> None:
    """End the children, at once by SIGKILL, else by SIGTERM so that they save first."""
    for pid in children:
        os.kill(pid, signal.SIGKILL if at_once else signal.SIGTERM)
    deadline = time.monotonic() + job.grace_s
    while children:
        reap(job, children, ended)
        if time.monotonic() > deadline:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_S)


def preload(beat: Callable[[], None] = lambda: None) -> None:
    """Import every stage once, with a beat before each: a cold disk takes minutes.

    Raises RuntimeError if the imports left more than one thread.
    """
    gc.disable()  # nothing to collect while importing: a quarter of the time
    for stage in get_args(StageName):
        beat()
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
    """Heartbeat of a worker, written at each change and about once a second.

    Of two workers on one mailbox (a job requeued while its old step goes on) the later one stays.
    """

    def __init__(self, box: Mailbox, code: str) -> None:
        self._box = box
        before = box.heartbeat()
        self._heartbeat = Heartbeat(
            pid=os.getpid(),
            host=socket.gethostname(),
            term=1 if before is None else before.term + 1,
            code=code,
            state="loading",
            running=(),
        )
        self._written_at = -math.inf
        self.is_overtaken = False

    def beat(self, state: Literal["loading", "serving"], running: tuple[str, ...] = ()) -> None:
        heartbeat = self._heartbeat.model_copy(update={"state": state, "running": running})
        if heartbeat == self._heartbeat and time.monotonic() - self._written_at < BEAT_S:
            return
        with contextlib.suppress(OSError):  # a full disk must not end what others wait for
            last = self._box.heartbeat()
            self.is_overtaken = last is not None and last.term > heartbeat.term
            if not self.is_overtaken:
                self._box.beat(heartbeat.model_copy(update={"beat": heartbeat.beat + 1}))
        self._heartbeat = heartbeat.model_copy(update={"beat": heartbeat.beat + 1})
        self._written_at = time.monotonic()


def _write_outcomes(box: Mailbox, ended: dict[str, Outcome]) -> None:
    """Write outcomes; those that a full disk refuses stay in `ended` and are written later."""
    with contextlib.suppress(OSError):
        for name in list(ended):
            box.finish(name, ended[name])
            del ended[name]
