"""Signals that end a command, in real processes that compute nothing."""

import signal
import subprocess
import sys

import pytest

from flows.commands.ending import STOPPED
from flows.commands.exit_codes import ExitCode
from tests.flows.conftest import PROJECT

IN_A_FINALIZER = """
import os, signal, time, weakref
from flows.commands.ending import until_end

class Thing: pass

def run():
    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del thing
    time.sleep(200)

until_end(run)
"""
WAITING = """
import time
from flows.commands.ending import until_end

def run():
    print("waits", flush=True)
    time.sleep(200)

until_end(run)
"""


def test_a_ctrl_c_that_hits_a_finalizer_is_not_lost() -> None:
    command = [sys.executable, "-c", IN_A_FINALIZER]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, f"{STOPPED}\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_way_of_asking_ends_in_order(number: signal.Signals) -> None:
    with waiting(WAITING) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (ExitCode.INTERRUPTED, f"{STOPPED}\n")


def test_under_nohup_a_closed_terminal_is_no_news() -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with waiting(ignoring + WAITING) as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (ExitCode.INTERRUPTED, f"{STOPPED}\n")


def waiting(script: str) -> "subprocess.Popen[str]":
    """A process whose command has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    return process


def test_a_vendor_that_says_when_has_an_exit_code_of_its_own() -> None:
    later = (
        "from flows.commands.ending import until_end\n"
        "from afd.errors import UserError\n"
        "def run():\n"
        "    error = UserError('until tomorrow')\n"
        "    error.exit_code = 75\n"
        "    raise error\n"
        "until_end(run)\n"
    )
    command = [sys.executable, "-c", later]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert (done.returncode, done.stderr) == (ExitCode.LATER, "until tomorrow\n")
