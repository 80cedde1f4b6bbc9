"""Owners of orders and their liveness: the orders of a dead owner are taken over.

On this machine the check compares pid and start time, since a pid is reused. A clock step moves the
start time, so if it differs, the heartbeat decides. For another machine or container only the
heartbeat counts.
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
        """Return a new owner; two engines of one process are two owners."""
        owner = cls(uuid.uuid4().hex, here(), os.getpid(), psutil.Process().create_time())
        _working.add(owner.id)
        return owner

    def end(self) -> None:
        """Mark the owner as ended in this process, even if the disk cannot be written."""
        _working.discard(self.id)


@dataclass(frozen=True)
class Harvester:
    """The one process that harvests a provider into a store."""

    host: str
    pid: int
    since: float  # seconds since 1970


@cache
def here() -> str:
    """Return host name and pid namespace: processes of one place share pids."""
    try:
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbers = ""
    return f"{socket.gethostname()} {numbers}".strip()


def register(db: sqlite3.Connection, owner: Owner) -> None:
    """Insert the owner, or renew its heartbeat."""
    values = (owner.id, owner.host, owner.pid, owner.created, time.time())
    db.execute(
        "INSERT INTO owners VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at",
        values,
    )


def beat(db: sqlite3.Connection, owner: Owner) -> None:
    """Renew the heartbeat, every `BEAT_S` seconds; also after others took the owner for dead."""
    register(db, owner)


def enter(db: sqlite3.Connection, provider: str, owner: Owner) -> Harvester | None:
    """Make `owner` the one harvester of a provider; return the living one if there is another."""
    db.execute(
        "CREATE TABLE IF NOT EXISTS harvesters "
        "(provider TEXT PRIMARY KEY, owner TEXT NOT NULL, since REAL NOT NULL)"
    )
    row = db.execute(
        "SELECT owners.*, since FROM harvesters JOIN owners ON owners.id = owner "
        "WHERE provider = ?",
        (provider,),
    ).fetchone()
    if row is not None and row["id"] != owner.id and _lives(row):
        return Harvester(row["host"].split()[0], row["pid"], row["since"])
    db.execute(
        "INSERT OR REPLACE INTO harvesters VALUES (?, ?, ?)", (provider, owner.id, time.time())
    )
    return None


def dead(db: sqlite3.Connection) -> list[str]:
    """Return the ids of dead owners."""
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
