"""Mailbox of a worker: a folder of requests and outcomes on a shared disk.

    req/<id>.json      submitted     run/<id>.json  being computed     done/<id>.json  Outcome
    cancel/<id>        give it up    stop           the worker is to end
    owner.json         the process that waits; without one the worker ends when nothing is left
    heartbeat.json     the worker: pid, host, code digest, loading or serving

A request moves by rename, so it is in exactly one place; the worker alone moves it. Clocks of hosts
differ: a process that waits for another host checks that a counter changes, by its own clock.
"""

import hashlib
import os
import time
from functools import cache
from pathlib import Path
from typing import Literal

from afd.config import Frozen
from afd.processes import ProcessId
from afd.runtime.outcome import Outcome
from afd.runtime.parts import Gather, Part, StageTask
from afd.runtime.request import StageRequest
from afd.store import write_atomic

BOXES = ("req", "run", "done", "cancel")
OWNER_SILENCE_S = 600.0  # a head process without a sign of life for so long is gone


class Heartbeat(Frozen):
    """State of a worker, written about once a second."""

    pid: int
    host: str
    term: int = 1  # of the workers that one mailbox has had: the later one stays
    beat: int = 0  # increases with every heartbeat
    code: str  # digest of the code it has loaded
    state: Literal["loading", "serving"]
    running: tuple[str, ...]


class Mailbox:
    """Folder of one worker, for the flow and for the worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def create(self) -> "Mailbox":
        for name in BOXES:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        return self

    # ---------------------------------------------------------------- the flow's side

    def own(self) -> None:
        """Sign as the owner; an owner on another host does so every 10 s."""
        write_atomic(self.folder / "owner.json", ProcessId.current().model_dump_json().encode())

    def submit(self, request: StageRequest, piece: Part | Gather | None = None) -> str:
        """Add a request unless it waits or runs already; return its id."""
        name = request_id(request, piece)
        (self.folder / "cancel" / name).unlink(missing_ok=True)
        if not self.is_pending(name):
            (self.folder / "done" / f"{name}.json").unlink(missing_ok=True)
            content = StageTask(request=request, piece=piece).model_dump_json().encode()
            write_atomic(self.folder / "req" / f"{name}.json", content)
        return name

    def is_pending(self, name: str) -> bool:
        return any((self.folder / box / f"{name}.json").exists() for box in ("req", "run"))

    def outcome(self, name: str) -> Outcome | None:
        """Return the outcome once the request has left run/, else None.

        A request submitted again must not find its old outcome.
        """
        if (self.folder / "run" / f"{name}.json").exists():
            return None
        try:
            content = (self.folder / "done" / f"{name}.json").read_bytes()
        except FileNotFoundError:
            return None
        return Outcome.model_validate_json(content)

    def cancel(self, name: str) -> None:
        """Cancel one request: it never starts, or its child is killed."""
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
        """Return the ids of waiting requests in order of arrival."""
        found = [entry for entry in os.scandir(self.folder / "req") if entry.name.endswith(".json")]
        found = [entry for entry in found if not entry.name.startswith(".")]
        return [
            e.name.removesuffix(".json") for e in sorted(found, key=lambda e: e.stat().st_mtime)
        ]

    def take_back(self) -> None:
        """Move the requests that an earlier worker left in run/ back to req/."""
        for file in (self.folder / "run").glob("*.json"):
            file.rename(self.folder / "req" / file.name)

    def take(self, name: str) -> Path:
        """Move a request to run/."""
        path = self.folder / "run" / f"{name}.json"
        (self.folder / "req" / f"{name}.json").rename(path)
        return path

    def finish(self, name: str, outcome: Outcome) -> None:
        """Write the outcome, then remove the request from run/: it is always in one of them."""
        content = outcome.model_dump_json().encode()
        write_atomic(self.folder / "done" / f"{name}.json", content)
        (self.folder / "run" / f"{name}.json").unlink(missing_ok=True)
        (self.folder / "cancel" / name).unlink(missing_ok=True)

    def cancelled(self) -> set[str]:
        return {entry.name for entry in os.scandir(self.folder / "cancel")}

    def is_stopped(self) -> bool:
        return self.stop_file.exists()

    def owner(self) -> ProcessId | None:
        try:
            content = (self.folder / "owner.json").read_bytes()
        except FileNotFoundError:
            return None
        return ProcessId.model_validate_json(content)


class OwnerWatch:
    """Watch over the owner: by its pid on this host, by its signs of life from another."""

    def __init__(self, box: Mailbox, silence_s: float = OWNER_SILENCE_S) -> None:
        self._box, self._silence_s = box, silence_s
        self._last: ProcessId | None = None
        self._changed_at = time.monotonic()

    def is_alive(self) -> bool:
        """Return True while an owner still waits for this worker."""
        owner = self._box.owner()
        if owner is None or not owner.is_alive():
            return False
        if owner != self._last:
            self._last, self._changed_at = owner, time.monotonic()
        return owner.is_here or time.monotonic() - self._changed_at < self._silence_s


def request_id(request: StageRequest, piece: Part | Gather | None = None) -> str:
    """Return the id of an artifact's request or of a piece of it: equal for equal requests."""
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
    """Return the sha256 of the source files of afd/; a worker may have loaded other files."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
