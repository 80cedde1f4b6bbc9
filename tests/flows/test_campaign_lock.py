"""One process holds a campaign: told to everybody else, on every host, and let go by a kill."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from afd.processes import ProcessId
from afd.store import write_atomic
from flows import campaign_lock as holding
from flows.campaign_lock import (
    CampaignRunningError,
    LockHolder,
    hold_campaign,
    holder_of,
    request_cancel,
    sure_holder_of,
)
from tests.flows.conftest import PROJECT

HOLD = """
import signal, sys, time
from pathlib import Path
from flows import campaign_lock
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
campaign_lock.BEAT_S = campaign_lock.LOOK_S = 0.1
with campaign_lock.hold_campaign(Path(sys.argv[1]), "demo") as mine:
    print("held", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
# A host whose kernel does not share its locks: another name, and a lock file of its own.
ELSEWHERE = 'touch "$0.lock" && mount --bind "$0.lock" "$0/lock" && hostname elsewhere && exec "$@"'


@contextmanager
def holder(folder: Path, *, elsewhere: bool = False) -> "Iterator[subprocess.Popen[str]]":
    folder.mkdir(exist_ok=True)
    (folder / "lock").touch()
    command = [sys.executable, "-c", HOLD, str(folder)]
    if elsewhere:
        command = ["unshare", "--uts", "--mount", "sh", "-ec", ELSEWHERE, str(folder), *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def left_elsewhere(folder: Path, beat: int = 1) -> None:
    """The last beat of a holder on another host."""
    there = ProcessId.current().model_copy(update={"host": "elsewhere"})
    last = LockHolder(process=there, since="yesterday", token="theirs", beat=beat)
    write_atomic(folder / holding.HOLDER, last.model_dump_json().encode())


def can_unshare() -> bool:
    try_it = ["unshare", "--uts", "--mount", "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(try_it, check=False, capture_output=True).returncode == 0
    )


def test_the_second_start_is_told_who_holds_it_and_the_kernel_lets_go(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with holder(folder) as other:
        said = rf"pid {other.pid} on .* since .*\n.*nothing was started"
        with pytest.raises(CampaignRunningError, match=said), hold_campaign(folder, "demo"):
            pass
        known = holder_of(folder)
        assert known is not None and known.process.pid == other.pid
        other.kill()
        other.wait()
        assert holder_of(folder) is None
        with hold_campaign(folder, "demo"):
            assert holder_of(folder) is not None
    assert holder_of(folder) is None


@pytest.mark.skipif(
    not can_unshare(), reason="NOT TESTED (no namespaces here): a holder on a host without locks"
)
def test_a_holder_on_a_host_whose_locks_are_not_seen_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts for as long as its beat changes; a killed one is taken over."""
    monkeypatch.setattr(holding, "SILENT_S", 2.0)
    folder = tmp_path / "demo"
    with holder(folder, elsewhere=True) as other:
        with (
            pytest.raises(CampaignRunningError, match="on elsewhere"),
            hold_campaign(folder, "demo"),
        ):
            pass
        other.kill()
        other.wait()
        with hold_campaign(folder, "demo") as mine:
            assert mine.holder.process.pid == os.getpid()


@pytest.mark.skipif(
    not can_unshare(), reason="NOT TESTED (no namespaces here): a holder that was taken for dead"
)
def test_a_holder_that_was_taken_for_dead_stops_when_it_wakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "SILENT_S", 1.0)
    folder = tmp_path / "demo"
    with holder(folder, elsewhere=True) as other:
        other.send_signal(signal.SIGSTOP)
        with hold_campaign(folder, "demo"):
            other.send_signal(signal.SIGCONT)
            assert other.stdout is not None
            assert other.wait(10) == holding.LOST
            assert other.stdout.read() == ""  # as after a kill: nothing was undone
            assert holder_of(folder) is not None  # ours, untouched


def test_a_holder_whose_host_is_lost_is_told_from_one_that_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once by the age of its last beat, for certain by listening."""
    monkeypatch.setattr(holding, "SILENT_S", 1.0)
    left_elsewhere(tmp_path)
    assert holder_of(tmp_path) is not None
    assert sure_holder_of(tmp_path) is None
    past = time.time() - 2 * holding.OLD_S
    os.utime(tmp_path / holding.HOLDER, (past, past))
    assert holder_of(tmp_path) is None
    assert {left.name for left in tmp_path.iterdir()} == {holding.HOLDER}
    threading.Timer(0.3, left_elsewhere, (tmp_path, 2)).start()
    assert sure_holder_of(tmp_path) is not None


def test_a_holder_is_asked_to_stop_through_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with holder(folder) as other:
        known = holder_of(folder)
        assert known is not None
        request_cancel(folder, known.model_copy(update={"token": "an earlier hold"}))
        time.sleep(0.5)
        assert other.poll() is None
        request_cancel(folder, known)
        assert other.stdout is not None
        assert other.stdout.readline() == "interrupted\n"
        assert other.wait(10) == 0
    assert {left.name for left in folder.iterdir()} == {"lock"}
