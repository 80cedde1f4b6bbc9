"""Who works on an order, and whether it still lives: a dead owner's orders are taken over.

On this machine a process is asked for (pid and start time, so that a number given out again is not
mistaken for it; a step of the clock moves that time, so where it differs the heartbeat decides). Of
another machine, or another container, only its heartbeat is seen.
"""

import os
import socket
import sqlite3
import time
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

_working: set[str] = set()  # owners of this very process that have not ended
BEAT_S = 15.0
SILENT_S = 180.0  # a machine's clock may be a minute off, and a network disk slow


@dataclass(frozen=True)
class Owner:
    """One engine in one process."""

    id: str
    host: str
    pid: int
    created: float

    @classmethod
    def new(cls) -> "Owner":
        """This process, once more: two engines of one process are two owners."""
        owner = cls(uuid.uuid4().hex, here(), os.getpid(), psutil.Process().create_time())
        _working.add(owner.id)
        return owner

    def end(self) -> None:
        """It works no more, also where the disk cannot be told so."""
        _working.discard(self.id)


@cache
def here() -> str:
    """This machine, and where there are several, this set of process numbers on it."""
    try:
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbers = ""
    return f"{socket.gethostname()} {numbers}".strip()


def register(db: sqlite3.Connection, owner: Owner) -> None:
    """Say that this owner is at work."""
    values = (owner.id, owner.host, owner.pid, owner.created, time.time())
    db.execute(
        "INSERT INTO owners VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at",
        values,
    )


def beat(db: sqlite3.Connection, owner: Owner) -> None:
    """Say so again, about every `BEAT_S` seconds; also where others took it for dead meanwhile."""
    register(db, owner)


def dead(db: sqlite3.Connection) -> list[str]:
    """Ids of the owners that are at work no more."""
    rows = db.execute("SELECT id, host, pid, created, beat_at FROM owners").fetchall()
    return [row["id"] for row in rows if not _lives(row)]


def _lives(row: sqlite3.Row) -> bool:
    is_heard = time.time() - row["beat_at"] < SILENT_S
    if row["host"] != here():
        return is_heard
    if row["pid"] == os.getpid():
        return row["id"] in _working
    try:
        process = psutil.Process(row["pid"])
        same = abs(process.create_time() - row["created"]) < 1.0
        return (same or is_heard) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
