"""What killed dvc processes leave behind, with real processes and real dvc locks."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.dvc_locks import explain, locks

HOLD = """
import sys, time
from pathlib import Path
from dvc.lock import make_lock
folder = Path(sys.argv[1])
with make_lock(str(folder / "lock"), str(folder), hardlink_lock=sys.argv[2] == "link"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    folder = tmp_path / ".dvc" / "tmp"
    folder.mkdir(parents=True)
    return folder


def held(tmp: Path, kind: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(tmp), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def table(tmp: Path, pid: int) -> Path:
    file = tmp / "rwlock"
    entry = {"pid": pid, "cmd": "dvc repro demo"}
    file.write_text(json.dumps({"write": {"/a": entry}, "read": {"/b": [entry]}}))
    return file


def test_nothing_is_locked_in_a_fresh_repository(tmp_path: Path, tmp: Path) -> None:
    assert locks(tmp_path) == [] and explain(tmp_path) == ""


def test_a_lock_file_whose_process_is_gone_means_nothing(tmp_path: Path, tmp: Path) -> None:
    process = held(tmp, "file")
    (living,) = locks(tmp_path)
    assert not living.is_stale and str(process.pid) in living.text
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp / "lock").exists() and locks(tmp_path) == []


def test_a_hard_link_of_a_killed_process_is_stale_and_its_cure_works(
    tmp_path: Path, tmp: Path
) -> None:
    process = held(tmp, "link")
    process.send_signal(signal.SIGKILL)
    process.wait()
    (stale,) = locks(tmp_path)
    assert stale.is_stale and f"rm {stale.file}" in stale.cure
    stale.file.unlink()
    again = held(tmp, "link")  # dvc itself can lock again
    again.kill()
    again.wait()


def test_the_table_tells_living_writers_from_killed_ones_and_from_their_numbers(
    tmp_path: Path, tmp: Path
) -> None:
    file = table(tmp, os.getpid())
    (living,) = locks(tmp_path)
    assert not living.is_stale and "dvc repro demo" in living.text
    os.utime(file, (1, 1))  # written before this process began: its number only
    (reused,) = locks(tmp_path)
    assert reused.is_stale and f"rm {file}" in reused.cure
    gone = subprocess.Popen(["true"])
    gone.wait()
    table(tmp, gone.pid)
    (killed,) = locks(tmp_path)
    assert killed.is_stale and killed.cure == "" and "forgets it" in killed.text


def test_a_table_cut_short_is_recognised(tmp_path: Path, tmp: Path) -> None:
    (tmp / "rwlock").write_text('{"write": {"/a": {"pi')
    (cut,) = locks(tmp_path)
    assert cut.is_stale and "rm " in cut.cure and cut.text in explain(tmp_path)
