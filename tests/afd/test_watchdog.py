"""Time without progress, as the watchdog of a stage counts it."""

import signal
import subprocess
import sys

WAITS = """
import sys
from afd import signals
signals.limit_silence(3.0)
print("waits", flush=True)
sys.stdin.readline()
signals.show_life()
"""


def started() -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    return process


def test_the_time_in_which_a_stage_was_suspended_is_not_counted_and_other_silence_is() -> None:
    suspended = started()
    suspended.send_signal(signal.SIGSTOP)
    silent = started()
    assert silent.wait(240) == -signal.SIGALRM
    assert silent.stderr is not None
    assert "<module>" in silent.stderr.read()  # its stacks
    suspended.send_signal(signal.SIGCONT)
    suspended.communicate("go on\n", timeout=240)
    assert suspended.returncode == 0
