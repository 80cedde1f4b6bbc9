"""Locks that a killed `dvc` leaves behind, and their cures.

.dvc/tmp/lock     held while a process lives (flock): the file stays and means nothing. With
                  core.hardlink_lock it is a hard link, which a killed process holds for a year
.dvc/tmp/rwlock   who reads and writes which path, by process number; dvc forgets dead ones
                  itself, unless their number was given to another process or the table was cut
                  short by the kill
"""

import contextlib
import fcntl
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from afd.store import write_json

log = logging.getLogger(__name__)
ELSEWHERE = "if no dvc runs on another host either"
CLEARED = "nothing that dvc tracks is lost, and `dvc repro` goes on from where it was"


@dataclass(frozen=True)
class Lock:
    """One lock in the repository."""

    file: Path
    text: str  # who holds it
    is_stale: bool
    cure: str  # empty where dvc needs none


def locks(root: Path) -> list[Lock]:
    """Return every lock in the repository at `root`; writes nothing."""
    return [*_repository_lock(root), *_table(root)]


def explain(root: Path) -> str:
    """Return the locks as lines for the end of an error, empty where there are none."""
    return "".join(f"\n  {one.text}{f': {one.cure}' if one.cure else ''}" for one in locks(root))


def release_dead_writers(root: Path) -> list[str]:
    """Drop entries of dvc's lock table whose process is gone; return their commands.

    Call it only while holding dvc's own repository lock.
    """
    table = root / ".dvc" / "tmp" / "rwlock"
    try:
        entries = json.loads(table.read_text())
    except FileNotFoundError:
        return []
    except ValueError:
        table.unlink()
        log.warning("%s: cut short by a kill, removed; nothing tracked is lost", table)
        return ["unreadable"]
    since = table.stat().st_mtime
    released = [str(one["cmd"]) for one in _entries(entries) if not _lives(one, since)]
    write = {p: one for p, one in entries.get("write", {}).items() if _lives(one, since)}
    read = {
        path: living
        for path, readers in entries.get("read", {}).items()
        if (living := [one for one in readers if _lives(one, since)])
    }
    if released:
        write_json(table, {"write": write, "read": read})
        log.warning("released %d lock(s) of killed dvc processes", len(released))
    return released


def _repository_lock(root: Path) -> Iterator[Lock]:
    file = root / ".dvc" / "tmp" / "lock"
    try:
        holder = file.read_text().strip()
    except OSError:
        return
    if not holder.isdigit():  # a hard link, whose holder cannot be asked for
        dvc = [process.pid for process in psutil.process_iter() if _is_dvc_of(root, process)]
        if dvc:
            yield Lock(file, f"dvc runs now, process {dvc[0]}", False, "wait for it")
        else:
            text = f"{file} is held (core.hardlink_lock), and no dvc runs here on this host"
            cure = f"{ELSEWHERE}, rm {file}; {CLEARED}"
            yield Lock(file, text, True, cure)
        return
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield Lock(file, f"dvc runs now, process {holder}", False, "wait for it")


def _table(root: Path) -> Iterator[Lock]:
    file = root / ".dvc" / "tmp" / "rwlock"
    try:
        entries = json.loads(file.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        yield Lock(file, f"{file} was cut short by a kill", True, f"rm {file}; {CLEARED}")
        return
    since = file.stat().st_mtime
    for pid, cmd in sorted({(int(one["pid"]), str(one["cmd"])) for one in _entries(entries)}):
        entry = {"pid": pid, "cmd": cmd}
        if _lives(entry, since):
            yield Lock(file, f"`{cmd}` runs, process {pid}", False, "wait for it")
        elif psutil.pid_exists(pid):
            text = f"`{cmd}` does not run here, and its number {pid} is another process's now"
            yield Lock(file, text, True, f"{ELSEWHERE}, rm {file}; {CLEARED}")
        else:
            text = f"`{cmd}` (process {pid}) was killed: the next dvc command forgets it"
            yield Lock(file, text, True, "")


def _entries(entries: dict[str, Any]) -> list[dict[str, Any]]:
    """Every reader and writer of a table."""
    readers = [one for several in entries.get("read", {}).values() for one in several]
    return [*entries.get("write", {}).values(), *readers]


def _lives(entry: dict[str, Any], since: float) -> bool:
    """Return whether the process of an entry lives; one that started later has only its pid."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(int(entry["pid"])).create_time() <= since
    return False


def _is_dvc_of(root: Path, process: psutil.Process) -> bool:
    """Return whether a process is `dvc`, or `python -m dvc`, in this repository."""
    with contextlib.suppress(psutil.Error):
        is_dvc = any(Path(word).name == "dvc" for word in process.cmdline()[:3])
        return is_dvc and Path(process.cwd()).is_relative_to(root.resolve())
    return False
