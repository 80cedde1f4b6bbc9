"""Right to make one artifact: a lock, and a fencing token where locks do not work.

A node that the scheduler has lost may go on computing beside a new attempt. The lock forbids it
where locks work between hosts. Elsewhere each attempt has its own folder, whose number is its
fencing token: mkdir creates a number once, an attempt that finds a higher number stops, and the
rename onto an existing artifact fails, so exactly one is published.
"""

import contextlib
import errno
import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

from afd.errors import Status, UserError

NO_LOCKS = {errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS}
CANCELLED = "AFD_CANCELLED"  # variable: while the file it names exists, nothing is published


class StoreError(UserError):
    """Disk error or damaged artifact: file, reason, cure."""

    status: ClassVar[Status] = "store"


class BusyError(StoreError):
    """Another process is making this artifact."""

    status: ClassVar[Status] = "busy"


class LostError(StoreError):
    """End of an attempt: a later one has begun, or a process it needs is gone. Its files stay."""

    status: ClassVar[Status] = "lost"


@dataclass(frozen=True)
class Attempt:
    """One attempt at an artifact; `number` is its fencing token."""

    work: Path  # shared by all attempts
    number: int  # from 1

    @classmethod
    def begin(cls, work: Path) -> "Attempt":
        """Begin a new attempt, the latest in `work`."""
        (work / "attempts").mkdir(parents=True, exist_ok=True)
        while True:
            number = max(_numbers(work), default=0) + 1
            begun = cls(work, number)
            try:
                begun.folder.mkdir()  # atomic on every file system: the number is unique
            except FileExistsError:
                continue
            (begun.folder / "who").write_text(who())
            return begun

    @property
    def folder(self) -> Path:
        """Folder that this attempt alone writes to."""
        return self.work / "attempts" / f"{self.number:04d}"

    @property
    def out(self) -> Path:
        """Folder that becomes the artifact."""
        return self.folder / "out"

    def check(self) -> None:
        """Raise LostError if a later attempt has begun, or has published and removed the folder."""
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
    """Return pid, node and job of this process, for people."""
    job = os.environ.get("SLURM_JOB_ID")
    host = os.environ.get("SLURMD_NODENAME") if job else None
    of_job = f", SLURM job {job}" if job else ""
    return f"process {os.getpid()} on {host or socket.gethostname()}{of_job}"


def refuse_cancelled() -> None:
    """Raise LostError if the file that AFD_CANCELLED names exists.

    A scheduler cannot end a process on a node that it has lost; the file is on the shared disk.
    """
    mark = os.environ.get(CANCELLED)
    if mark and Path(mark).exists():
        raise LostError(f"cancelled ({mark}): {who()} publishes nothing; its checkpoints are kept")


def _numbers(work: Path) -> list[int]:
    """Return the numbers of all attempts; none when the folder is gone."""
    try:
        names = [entry.name for entry in os.scandir(work / "attempts")]
    except FileNotFoundError:
        return []
    return [int(name) for name in names if name.isdecimal()]


def flock(file: BinaryIO, how: int) -> bool:
    """Take the kernel's lock of a file; return False on a disk without locks.

    Raises BlockingIOError when another process holds it and `how` does not wait.
    """
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def begun(work: Path) -> tuple[BinaryIO, Attempt]:
    """Lock a work folder and begin an attempt; the process that publishes removes both."""
    while True:
        lock = locked(work, "lock")
        try:
            return lock, Attempt.begin(work)
        except FileNotFoundError:
            lock.close()


def locked(work: Path, name: str) -> BinaryIO:
    """Take the lock `name` of a work folder; raises BusyError.

    On a disk without locks the attempt's number and the rename decide. A process that has just
    published removes the folder with its lock: only the lock file that is there counts.
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
