"""Whoever keeps a server takes it along, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from afd.processes import ProcessId
from flows.prefect_runs import keeper as keeping
from flows.prefect_runs.keeper import KNOWN, SERVER, end_left_server, other_host
from tests.flows.conftest import PROJECT
from tests.flows.test_campaign_lock import can_unshare

KEEP = """
import sys
from pathlib import Path
from flows.prefect_runs import keeper
keeper.GRACE_S = keeper.POLL_S = keeper.BEAT_S = 0.2
keeper._command = lambda port: [sys.executable, "-c", "import time; time.sleep(600)"]
sys.exit(keeper.keep(Path(sys.argv[1]), 0))
"""


def started(
    home: Path, *, used: bool, before: tuple[str, ...] = ()
) -> "tuple[subprocess.Popen[bytes], ProcessId]":
    (home / KNOWN).touch()
    lock = (
        f"import fcntl; f = open({str(home / 'users')!r}, 'a+b'); fcntl.flock(f, fcntl.LOCK_SH)\n"
    )
    keeper = subprocess.Popen(
        [*before, sys.executable, "-c", (lock if used else "") + KEEP, str(home)], cwd=PROJECT
    )
    deadline = time.monotonic() + 30
    while not (home / SERVER).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return keeper, ProcessId.model_validate_json((home / SERVER).read_bytes())


def ended(server: ProcessId) -> bool:
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
    (tmp_path / SERVER).write_text(ProcessId.of(left.pid).model_dump_json())
    end_left_server(tmp_path)
    assert left.wait(5) == -signal.SIGKILL
    other = ProcessId.current().model_copy(
        update={"created": psutil.boot_time()}
    )  # our number, not us
    (tmp_path / SERVER).write_text(other.model_dump_json())
    end_left_server(tmp_path)
    assert os.getpid() == other.pid


@pytest.mark.skipif(
    not can_unshare(), reason="NOT TESTED (no namespaces here): a server on another host"
)
def test_a_server_on_another_host_is_seen_for_as_long_as_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SILENT_S", 2.0)
    there = ("unshare", "--uts", "sh", "-ec", 'hostname elsewhere && exec "$@"', "sh")
    keeper, server = started(tmp_path, used=True, before=there)
    of_keeper = ProcessId.of(keeper.pid).model_copy(update={"host": "elsewhere"})
    entry = json.dumps({"port": 9, "keeper": of_keeper.model_dump()})
    (tmp_path / KNOWN).write_text(entry)
    assert other_host(tmp_path) == "elsewhere"
    keeper.send_signal(signal.SIGKILL)
    keeper.wait()
    server = server.model_copy(update={"host": ProcessId.current().host})
    assert ended(server)
    assert other_host(tmp_path) is None
    assert (tmp_path / KNOWN).read_text() == entry


def test_a_keeper_that_was_taken_for_gone_ends_its_server_and_leaves_the_other_alone(
    tmp_path: Path,
) -> None:
    keeper, server = started(tmp_path, used=True)
    other = ProcessId.of(keeper.pid).model_copy(update={"host": "elsewhere"})
    entry = json.dumps({"port": 9, "keeper": other.model_dump()})
    (tmp_path / KNOWN).write_text(entry)
    keeper.wait(20)
    assert ended(server)
    assert (tmp_path / KNOWN).read_text() == entry
