"""The right to make one artifact: a lock, and a number for where locks do not reach.

Two attempts at once (a node lost to the scheduler goes on computing): the lock forbids it where
locks work between hosts. Where they do not, each attempt has a folder of its own, whose number is
its fencing token: mkdir gives it once, whoever finds a higher one stops, and since the rename onto
an artifact that exists fails, exactly one is published.
"""

import contextlib
import errno
import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

NO_LOCKS = {errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS}
CANCELLED = "AFD_CANCELLED"  # a file: where it exists, nothing is published any more


class StoreError(RuntimeError):
    """The disk refused or an artifact is not what its manifest says: file, reason, what to do."""


class BusyError(StoreError):
    """Another process is making this very artifact."""


class LostError(StoreError):
    """This attempt may not go on: the artifact belongs to a later one, or a process it needs is
    gone. What it left is kept."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at an artifact; `number` is its fencing token."""

    work: Path  # shared by all attempts
    number: int  # from 1

    @classmethod
    def begin(cls, work: Path) -> "Attempt":
        """A new attempt, from now on the latest in `work`."""
        (work / "attempts").mkdir(parents=True, exist_ok=True)
        while True:
            number = max(_numbers(work), default=0) + 1
            begun = cls(work, number)
            try:
                begun.folder.mkdir()  # atomic on every file system: nobody else has this number
            except FileExistsError:
                continue
            (begun.folder / "who").write_text(who())
            return begun

    @property
    def folder(self) -> Path:
        """What this attempt alone writes to."""
        return self.work / "attempts" / f"{self.number:04d}"

    @property
    def out(self) -> Path:
        """Becomes the artifact."""
        return self.folder / "out"

    def check(self) -> None:
        """Raise LostError if a later attempt has begun, or has published and tidied up already."""
        latest = max(_numbers(self.work), default=0)
        if latest == self.number:
            return
        later = Attempt(self.work, latest).folder / "who"
        other = later.read_text() if later.exists() else "which has finished it"
        raise LostError(
            f"{self.work}: attempt {self.number} ({who()}) "
            f"was overtaken by a later one ({other}) and stops here; it publishes nothing, and the "
            "later one goes on from the last checkpoint"
        )


def who() -> str:
    """This process as a person looks for it: on which node, in which job."""
    job = os.environ.get("SLURM_JOB_ID")
    host = os.environ.get("SLURMD_NODENAME") if job else None
    of_job = f", SLURM job {job}" if job else ""
    return f"process {os.getpid()} on {host or socket.gethostname()}{of_job}"


def refuse_cancelled() -> None:
    """Raise LostError if this process was given up: a scheduler cannot end what runs on a node that
    it has lost, but the mark that AFD_CANCELLED names stands on the shared disk."""
    mark = os.environ.get(CANCELLED)
    if mark and Path(mark).exists():
        raise LostError(f"cancelled ({mark}): {who()} publishes nothing; its checkpoints are kept")


def _numbers(work: Path) -> list[int]:
    """Of the attempts that have begun; none when the folder is gone."""
    try:
        names = [entry.name for entry in os.scandir(work / "attempts")]
    except FileNotFoundError:
        return []
    return [int(name) for name in names if name.isdecimal()]


def flock(file: BinaryIO, how: int) -> bool:
    """The kernel's lock of a file, held; False where this disk knows none. Raises BlockingIOError
    when another process has it and `how` is not to wait."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def begun(work: Path) -> tuple[BinaryIO, Attempt]:
    """The lock of a work folder, held, and a new attempt; whoever publishes removes both."""
    while True:
        lock = locked(work, "lock")
        try:
            return lock, Attempt.begin(work)
        except FileNotFoundError:
            lock.close()


def locked(work: Path, name: str) -> BinaryIO:
    """The lock `name` in a work folder, held; raises BusyError. A disk without locks lets go on:
    there the number and the rename decide.

    Who has just published removes the folder with its lock: only the lock that stands there counts.
    """
    while True:
        work.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as unless_held:
            lock = unless_held.enter_context((work / name).open("a+b"))
            try:
                flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().decode(errors="replace") or "it has just begun"
                raise BusyError(
                    f"{work / name}: another process is making this artifact now ({holder})"
                ) from None
            if os.path.samestat(os.fstat(lock.fileno()), (work / name).stat()):
                with contextlib.suppress(OSError):  # a full disk: only the name is lost
                    lock.truncate(0)
                    lock.write(who().encode())
                    lock.flush()
                unless_held.pop_all()
                return lock
