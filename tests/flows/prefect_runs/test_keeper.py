"""Whoever keeps a server takes it along, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from afd.stages.mailbox import Owner
from flows.prefect_runs.keeper import KNOWN, SERVER, end_left_server
from tests.flows.conftest import PROJECT

KEEP = """
import sys
from pathlib import Path
from flows.prefect_runs import keeper
keeper.GRACE_S = keeper.POLL_S = 0.2
keeper._command = lambda port: [sys.executable, "-c", "import time; time.sleep(600)"]
sys.exit(keeper.keep(Path(sys.argv[1]), 0))
"""


def started(home: Path, *, used: bool) -> "tuple[subprocess.Popen[bytes], Owner]":
    (home / KNOWN).touch()
    lock = (
        f"import fcntl; f = open({str(home / 'users')!r}, 'a+b'); fcntl.flock(f, fcntl.LOCK_SH)\n"
    )
    keeper = subprocess.Popen(
        [sys.executable, "-c", (lock if used else "") + KEEP, str(home)], cwd=PROJECT
    )
    deadline = time.monotonic() + 30
    while not (home / SERVER).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return keeper, Owner.model_validate_json((home / SERVER).read_bytes())


def ended(server: Owner) -> bool:
    deadline = time.monotonic() + 5
    while server.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not server.is_alive()


def test_an_unused_server_is_forgotten_before_anybody_can_count_on_it(tmp_path: Path) -> None:
    keeper, server = started(tmp_path, used=False)
    keeper.wait(20)
    assert ended(server)
    assert not (tmp_path / KNOWN).exists()


def test_a_killed_keeper_leaves_no_server(tmp_path: Path) -> None:
    keeper, server = started(tmp_path, used=True)
    assert server.is_alive()
    keeper.send_signal(signal.SIGKILL)
    keeper.wait()
    assert ended(server)


def test_a_server_that_is_left_is_ended_and_no_other_process(tmp_path: Path) -> None:
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (tmp_path / SERVER).write_text(Owner.of(left.pid).model_dump_json())
    end_left_server(tmp_path)
    assert left.wait(5) == -signal.SIGKILL
    other = Owner.me().model_copy(update={"created": psutil.boot_time()})  # our number, not us
    (tmp_path / SERVER).write_text(other.model_dump_json())
    end_left_server(tmp_path)
    assert os.getpid() == other.pid
