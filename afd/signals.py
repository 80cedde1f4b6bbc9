"""Stop signals and hang detection of a stage's process.

After SIGTERM, SIGINT or SIGUSR2 (which SLURM sends before a time limit or a preemption) a resumable
stage finishes its step, saves it and exits. A second signal, or one before the first step, ends it
at once. A stage without progress for too long writes the stacks of all threads into its log and
ends by SIGALRM, also when it hangs inside a library.
"""

import faulthandler
import os
import signal
import sys
import time
from dataclasses import dataclass

from afd.watchdog import Watchdog

TOGETHER_S = 1.0  # SLURM and a worker may both signal a child: that counts once
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@dataclass
class _Process:
    """Signal state of this process."""

    heeds: bool = False
    requested_at: float | None = None
    watchdog: Watchdog | None = None


_process = _Process()


def heed() -> None:
    """Accept stop signals in this process, which computes one stage.

    Without this call (a stage inside a larger program) signals stay as they are.
    """
    _process.heeds = True


def limit_silence(hang_s: float | None) -> None:
    """Limit the time without progress to `hang_s` seconds; None: no limit."""
    if _process.watchdog is not None:
        _process.watchdog.stop()
        _process.watchdog = None
    if hang_s is not None:
        # chain: after the stacks the signal ends the process
        faulthandler.register(signal.SIGALRM, file=sys.stderr, all_threads=True, chain=True)
        _process.watchdog = Watchdog(hang_s)


def listen() -> None:
    """Turn stop signals into requests from now on: the stage has a state to save."""
    if _process.heeds:
        for number in STOPPING:
            signal.signal(number, _on_signal)


def stop_requested() -> bool:
    """Return True after a stop signal."""
    return _process.requested_at is not None


def show_life() -> None:
    """Report progress: the time limit of `limit_silence` starts again."""
    if _process.watchdog is not None:
        _process.watchdog.beat()


def _on_signal(number: int, _: object) -> None:
    now = time.monotonic()
    if _process.requested_at is None:
        _process.requested_at = now
        sys.stderr.write(f"{signal.Signals(number).name}: finishing this step, then leaving\n")
    elif now - _process.requested_at > TOGETHER_S:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
