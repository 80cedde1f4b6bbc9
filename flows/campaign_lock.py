"""Lock of a campaign: one process runs it, and its name is on disk for every host.

runs/<name>/lock          locked by the kernel while it runs: a kill lets go at once
runs/<name>/holder.json   who, where, since when, and a beat every few seconds
runs/<name>/cancel.json   somebody asks the holder to stop

Kernels of two hosts do not see each other's locks on every shared disk (Lustre's localflock, some
NFS). So a holder on another host also counts for as long as its beat changes; clocks of hosts are
never compared, since they disagree about the time.
"""

import contextlib
import fcntl
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from afd.attempts import flock
from afd.config import Frozen
from afd.errors import UserError
from afd.processes import ProcessId
from afd.store import disk_errors, write_atomic
from flows.command_text import command

LOCK, HOLDER, CANCEL = "lock", "holder.json", "cancel.json"
BEAT_S = 5.0
LOOK_S = 1.0  # how often the holder looks for somebody who asks it to stop
SILENT_S = 20.0  # a holder on another host whose beat stands still for so long is gone
OLD_S = 60.0  # a beat that is older by the disk's own clock is told without waiting
LOST = 1  # how a holder that was taken over exits


class CampaignRunningError(UserError):
    """Another process runs this campaign: the text has its pid, host and start."""


class LockHolder(Frozen):
    """A process that runs a campaign."""

    process: ProcessId
    since: str
    token: str  # of this hold, not of the process: it may hold the campaign twice
    beat: int = 0

    def __str__(self) -> str:
        return f"pid {self.process.pid} on {self.process.host} since {self.since}"


class CancelRequest(Frozen):
    """Request that the holder with `token` ends."""

    token: str
    by: str
    at: str


class CampaignLock:
    """This process's lock of a campaign; `is_cancelled` after a request to end."""

    def __init__(self, folder: Path, holder: LockHolder) -> None:
        self.folder, self.holder = folder, holder
        self.is_cancelled = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hold", daemon=True)

    def start(self) -> None:
        _write(self.folder, self.holder)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        now = read_holder(self.folder)
        if now is None or now.token == self.holder.token:
            (self.folder / HOLDER).unlink(missing_ok=True)
            (self.folder / CANCEL).unlink(missing_ok=True)

    def _watch(self) -> None:
        """Beat, and interrupt the main thread when somebody asks."""
        beaten = time.monotonic()
        while not self._ended.wait(LOOK_S):
            with contextlib.suppress(OSError):  # a full disk or a hiccup of a shared one
                if not self.is_cancelled and self._is_cancel_requested():
                    self.is_cancelled = True
                    _interrupt()
                if time.monotonic() - beaten >= BEAT_S:
                    beaten = time.monotonic()
                    now = read_holder(self.folder)
                    if now is not None and now.token != self.holder.token:
                        self._leave(now)
                    self.holder = self.holder.model_copy(update={"beat": self.holder.beat + 1})
                    _write(self.folder, self.holder)

    def _is_cancel_requested(self) -> bool:
        request = read_cancel(self.folder)
        return request is not None and request.token == self.holder.token

    def _leave(self, successor: LockHolder) -> None:
        """As after kill -9: jobs, records and MLflow's runs are the successor's now."""
        sys.stderr.write(
            f"\n{self.folder.name}: taken over by {successor}, who took this process for dead; it "
            "ends here and touches nothing\n"
        )
        sys.stderr.flush()
        os._exit(LOST)


@contextmanager
def hold_campaign(folder: Path, name: str) -> Iterator[CampaignLock]:
    """Hold the campaign of `folder`; raises CampaignRunningError with its holder."""
    with disk_errors(folder), (folder / LOCK).open("a+b") as lock:
        has_locks = _lock(lock, folder, name)
        left = read_holder(folder)
        if left is not None and _holds(folder, left, has_locks):
            raise already_running(folder, name, left)
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        mine = CampaignLock(
            folder, LockHolder(process=ProcessId.current(), since=since, token=uuid.uuid4().hex)
        )
        mine.start()
        try:
            if not has_locks:
                _yield_race(folder, name, mine.holder)
            yield mine
        finally:
            mine.end()


def holder_of(folder: Path) -> LockHolder | None:
    """Return the holder now, without a wait; one on another host counts while its beat is young."""
    left = read_holder(folder)
    if left is None or not left.process.is_alive():
        return None
    return left if left.process.is_here or _is_fresh(folder) else None


def sure_holder_of(folder: Path) -> LockHolder | None:
    """Return the holder without comparing clocks: a dead one on another host takes 20 s."""
    left = read_holder(folder)
    if left is None or not left.process.is_alive():
        return None
    return left if left.process.is_here or still_beats(folder, left) else None


def request_cancel(folder: Path, holder: LockHolder) -> None:
    """Ask the holder to end; on any host, within seconds."""
    by = f"pid {os.getpid()} on {ProcessId.current().host}"
    at = datetime.now().astimezone().isoformat(" ", "seconds")
    request = CancelRequest(token=holder.token, by=by, at=at)
    write_atomic(folder / CANCEL, request.model_dump_json().encode())


def read_holder(folder: Path) -> LockHolder | None:
    """Return the entry of the last holder, which may have ended."""
    try:
        return LockHolder.model_validate_json((folder / HOLDER).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def read_cancel(folder: Path) -> CancelRequest | None:
    try:
        return CancelRequest.model_validate_json((folder / CANCEL).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def still_beats(folder: Path, holder: LockHolder) -> bool:
    """Return whether the beat of a holder on another host changes within SILENT_S."""
    deadline = time.monotonic() + SILENT_S
    while time.monotonic() < deadline:
        now = read_holder(folder)
        if now is None:
            return False  # it ended orderly
        if now != holder:
            return True
        time.sleep(0.2)
    return False


def _is_fresh(folder: Path) -> bool:
    """Return whether the last beat is younger than OLD_S by the file system's clock.

    True where no new file can be made to read that clock.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as new, (folder / HOLDER).open("rb") as last:
            age_s = os.fstat(new.fileno()).st_mtime - os.fstat(last.fileno()).st_mtime
    except OSError:
        return True
    return age_s < OLD_S


def _interrupt() -> None:
    handled = signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN, None)
    os.kill(os.getpid(), signal.SIGTERM if handled else signal.SIGINT)


def _lock(lock: BinaryIO, folder: Path, name: str) -> bool:
    """Take the kernel's lock; False where this disk has none."""
    try:
        return flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise already_running(folder, name, read_holder(folder)) from None


def _holds(folder: Path, left: LockHolder, has_locks: bool) -> bool:
    """Return whether the last holder still runs where the kernel's lock does not say so."""
    if left.process.is_here:
        return not has_locks and left.process.is_alive()
    return still_beats(folder, left)


def _yield_race(folder: Path, name: str, mine: LockHolder) -> None:
    """Without locks, of two that start in one moment the one that wrote last goes on."""
    time.sleep(2 * LOOK_S)
    now = read_holder(folder)
    if now is not None and now.token != mine.token:
        raise already_running(folder, name, now)


def already_running(folder: Path, name: str, holder: LockHolder | None) -> CampaignRunningError:
    """Return the error that names the holder and the command that cancels it."""
    stops = command("cancel", name, runs=folder.parent)
    return CampaignRunningError(
        f"campaign {name!r} is running already: {holder or 'a process that just started'}\n"
        f"  nothing was started here; wait for it or stop it ({stops}), then run the same command"
    )


def _write(folder: Path, holder: LockHolder) -> None:
    write_atomic(folder / HOLDER, holder.model_dump_json().encode())
