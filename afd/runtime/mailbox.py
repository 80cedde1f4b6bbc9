"""The folder through which a flow and a worker talk: files, so it works on any shared disk.

    req/<id>.json      asked for     run/<id>.json  being computed     done/<id>.json  Outcome
    cancel/<id>        give it up    stop           the worker is to end
    owner.json         the flow that pays attention; without it the worker ends when it has nothing
                       left to do
    heartbeat.json     the worker: pid, host, code digest, whether it serves yet

A request moves by rename, so it is in exactly one place; the worker alone moves it. Hosts disagree
about the time: who waits for a sign from another host looks whether a counter moves, by its own
clock.
"""

import hashlib
import os
import socket
import time
from functools import cache
from pathlib import Path
from typing import Literal

import psutil

from afd.config import Frozen
from afd.runtime.outcome import Outcome
from afd.runtime.parts import Asked, Gather, Part
from afd.runtime.request import StageRequest
from afd.store import write_atomic

BOXES = ("req", "run", "done", "cancel")
OWNER_SILENCE_S = 600.0  # a head process that says nothing for so long is gone


class Heartbeat(Frozen):
    """What a worker says of itself, about once a second."""

    pid: int
    host: str
    term: int = 1  # of the workers that one mailbox has had: the later one stays
    beat: int = 0  # goes up with every heartbeat
    code: str  # digest of the code it has loaded
    state: Literal["loading", "serving"]
    running: tuple[str, ...]


class Owner(Frozen):
    """A process, named so that another process with its number is not mistaken for it."""

    pid: int
    host: str
    created: float
    beat: int = 0  # another number with every sign of attention

    @classmethod
    def me(cls) -> "Owner":
        return cls.of(os.getpid()).model_copy(update={"beat": time.time_ns()})

    @classmethod
    def of(cls, pid: int) -> "Owner":
        return cls(pid=pid, host=socket.gethostname(), created=psutil.Process(pid).create_time())

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this host."""
        return self.host == socket.gethostname()

    def is_same(self, other: "Owner") -> bool:
        """Whether both name one process."""
        same_number = (self.host, self.pid) == (other.host, other.pid)
        return same_number and abs(self.created - other.created) < 1.0

    def is_alive(self) -> bool:
        """Whether it still runs; a process of another host is taken to run, which answers "may I
        take over?" and no other question."""
        if not self.is_here:
            return True
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class Mailbox:
    """One worker's folder, seen from either side."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def create(self) -> "Mailbox":
        for name in BOXES:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        return self

    # ---------------------------------------------------------------- the flow's side

    def own(self) -> None:
        """Tell the worker that this process pays attention; from another host, every 10 s."""
        write_atomic(self.folder / "owner.json", Owner.me().model_dump_json().encode())

    def ask(self, request: StageRequest, piece: Part | Gather | None = None) -> str:
        """Put a request, unless it is there or runs already; gives its id."""
        name = request_id(request, piece)
        (self.folder / "cancel" / name).unlink(missing_ok=True)
        if not self.is_pending(name):
            (self.folder / "done" / f"{name}.json").unlink(missing_ok=True)
            content = Asked(request=request, piece=piece).model_dump_json().encode()
            write_atomic(self.folder / "req" / f"{name}.json", content)
        return name

    def is_pending(self, name: str) -> bool:
        return any((self.folder / box / f"{name}.json").exists() for box in ("req", "run"))

    def outcome(self, name: str) -> Outcome | None:
        """How it ended, once it has left run/: asked again, it must not be met by its old end."""
        if (self.folder / "run" / f"{name}.json").exists():
            return None
        try:
            content = (self.folder / "done" / f"{name}.json").read_bytes()
        except FileNotFoundError:
            return None
        return Outcome.model_validate_json(content)

    def cancel(self, name: str) -> None:
        """Give up one request: not started, or its child is killed."""
        (self.folder / "cancel" / name).touch()

    @property
    def stop_file(self) -> Path:
        return self.folder / "stop"

    def stop(self) -> None:
        self.stop_file.touch()

    def heartbeat(self) -> Heartbeat | None:
        try:
            return Heartbeat.model_validate_json((self.folder / "heartbeat.json").read_bytes())
        except FileNotFoundError:
            return None

    # ---------------------------------------------------------------- the worker's side

    def beat(self, heartbeat: Heartbeat) -> None:
        temporary = self.folder / ".heartbeat.tmp"
        temporary.write_text(heartbeat.model_dump_json())
        temporary.rename(self.folder / "heartbeat.json")

    def waiting(self) -> list[str]:
        """Ids asked for, in order of arrival."""
        found = [entry for entry in os.scandir(self.folder / "req") if entry.name.endswith(".json")]
        found = [entry for entry in found if not entry.name.startswith(".")]
        return [
            e.name.removesuffix(".json") for e in sorted(found, key=lambda e: e.stat().st_mtime)
        ]

    def take_back(self) -> None:
        """What an earlier worker left in run/ is asked for again."""
        for file in (self.folder / "run").glob("*.json"):
            file.rename(self.folder / "req" / file.name)

    def take(self, name: str) -> Path:
        """Move a request to run/."""
        path = self.folder / "run" / f"{name}.json"
        (self.folder / "req" / f"{name}.json").rename(path)
        return path

    def finish(self, name: str, outcome: Outcome) -> None:
        """The outcome first, then the request leaves run/: it is never nowhere."""
        content = outcome.model_dump_json().encode()
        write_atomic(self.folder / "done" / f"{name}.json", content)
        (self.folder / "run" / f"{name}.json").unlink(missing_ok=True)
        (self.folder / "cancel" / name).unlink(missing_ok=True)

    def cancelled(self) -> set[str]:
        return {entry.name for entry in os.scandir(self.folder / "cancel")}

    def is_stopped(self) -> bool:
        return self.stop_file.exists()

    def owner(self) -> Owner | None:
        try:
            content = (self.folder / "owner.json").read_bytes()
        except FileNotFoundError:
            return None
        return Owner.model_validate_json(content)


class Attention:
    """The worker's look at its owner: of this host it is seen, of another one it must be heard."""

    def __init__(self, box: Mailbox, silence_s: float = OWNER_SILENCE_S) -> None:
        self._box, self._silence_s = box, silence_s
        self._heard: Owner | None = None
        self._heard_at = time.monotonic()

    def is_paid(self) -> bool:
        """Whether somebody still waits for what this worker does."""
        owner = self._box.owner()
        if owner is None or not owner.is_alive():
            return False
        if owner != self._heard:
            self._heard, self._heard_at = owner, time.monotonic()
        is_here = owner.host == socket.gethostname()
        return is_here or time.monotonic() - self._heard_at < self._silence_s


def request_id(request: StageRequest, piece: Part | Gather | None = None) -> str:
    """The same for the same artifact or piece of it, so that nothing is asked for twice."""
    name = f"{request.stage}-{request.output.fingerprint[:16]}"
    match piece:
        case Part():
            return f"{name}-part-{piece.index}-of-{piece.num_parts}"
        case Gather():
            return f"{name}-gather-{piece.num_parts}"
        case None:
            return name


@cache
def code_digest() -> str:
    """sha256 over the source files of afd/ as this process found them; a worker may hold others."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
