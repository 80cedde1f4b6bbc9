"""What the process of a stage does when it is told to stop, and when it hangs.

SIGTERM, SIGINT and SIGUSR2 (what SLURM sends before a time limit or a preemption) ask a stage that
can be resumed to finish its step, keep it, and leave; a second one, or one before there is anything
to keep, ends it at once. A stage that shows no progress for too long writes the stacks of all its
threads into its log and dies of SIGALRM: also when it hangs inside a library.
"""

import faulthandler
import os
import signal
import sys
import time
from dataclasses import dataclass

TOGETHER_S = 1.0  # SLURM and a worker may both tell a child: that is one telling
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@dataclass
class _Process:
    """Signals belong to the process, and so does what is known about them."""

    heeds: bool = False
    told_at: float | None = None
    hang_s: float | None = None


_process = _Process()


def heed() -> None:
    """This process computes one stage: it may be told to stop.

    Without this call (a stage inside a larger program) signals stay as they are.
    """
    _process.heeds = True


def limit_silence(hang_s: float | None) -> None:
    """This process may show no progress for `hang_s` at most; None: for ever."""
    _process.hang_s = hang_s
    if hang_s is not None:
        # chain: after the stacks the signal does what it always does, it ends the process
        faulthandler.register(signal.SIGALRM, file=sys.stderr, all_threads=True, chain=True)
        show_life()


def listen() -> None:
    """From here on a stop is asked for, not forced: there is something to keep."""
    if _process.heeds:
        for number in STOPPING:
            signal.signal(number, _tell)


def is_told_to_stop() -> bool:
    return _process.told_at is not None


def show_life() -> None:
    """Progress: what counts as hanging starts anew."""
    if _process.hang_s is not None:
        signal.setitimer(signal.ITIMER_REAL, _process.hang_s)


def _tell(number: int, _: object) -> None:
    now = time.monotonic()
    if _process.told_at is None:
        _process.told_at = now
        sys.stderr.write(f"{signal.Signals(number).name}: finishing this step, then leaving\n")
    elif now - _process.told_at > TOGETHER_S:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
