"""Watchdog of a stage: a process beside it that counts the time without progress.

A timer of the stage itself would also count the time in which SLURM has suspended its job, and a
thread would wait for a library that holds the interpreter. Here a stopped stage is not counted,
nor is a gap in the watchdog's own time: both were suspended, or the machine slept.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

CODE = """
import os, select, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)  # a job's processes all get them; the stage may save
limit, stage = float(sys.argv[1]), os.getppid()
tick = min(1.0, limit / 10)

def is_stopped():
    try:
        with open(f"/proc/{stage}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False

left, before = limit, time.monotonic()
while left > 0 and os.getppid() == stage:
    if select.select([0], [], [], tick)[0]:
        if not os.read(0, 4096):
            sys.exit()
        left = limit
    elif not is_stopped():
        left -= min(time.monotonic() - before, 2 * tick)
    before = time.monotonic()
if os.getppid() == stage:
    os.kill(stage, signal.SIGALRM)
"""


class Watchdog:
    """Ends this process by SIGALRM after `limit_s` seconds without a beat."""

    def __init__(self, limit_s: float) -> None:
        self._every_s = min(1.0, limit_s / 20)
        self._beat_at = time.monotonic()
        command = [sys.executable, "-I", "-S", "-c", CODE, str(limit_s)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)

    def beat(self) -> None:
        """Report progress; a full or closed pipe is no trouble of the stage's."""
        at = time.monotonic()
        if at - self._beat_at >= self._every_s:
            self._beat_at = at
            with contextlib.suppress(OSError):
                os.write(self._pipe, b".")

    def stop(self) -> None:
        """End the watchdog."""
        with contextlib.suppress(OSError):
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
