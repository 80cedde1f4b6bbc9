"""What is going on in a campaign right now: written by tasks, read by whoever shows it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from afd.stages.request import StageRequest
from afd.store import Store


@dataclass(frozen=True)
class Running:
    """A stage somebody waits for."""

    request: StageRequest
    round_index: int | None
    started: float  # time.monotonic()


@dataclass(frozen=True)
class Done:
    """A stage that has its artifact."""

    request: StageRequest
    round_index: int | None
    wall_s: float  # as waited for; 0 when it was there
    summary: dict[str, float | int | str | None]
    was_there: bool


@dataclass
class Board:
    """Thread-safe; holds a campaign's hundred-odd stages, nothing more."""

    done: list[Done] = field(default_factory=list[Done])
    said: list[str] = field(default_factory=list[str])  # by alarms
    _running: dict[int, Running] = field(default_factory=dict[int, Running])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self, request: StageRequest, round_index: int | None) -> Iterator[None]:
        entry = Running(request, round_index, time.monotonic())
        with self._lock:
            self._running[id(entry)] = entry
        try:
            yield
        finally:
            with self._lock:
                del self._running[id(entry)]

    def finish(self, done: Done) -> None:
        with self._lock:
            self.done.append(done)

    def say(self, line: str) -> None:
        with self._lock:
            if line not in self.said:
                self.said.append(line)

    def now(self) -> list[Running]:
        with self._lock:
            return sorted(self._running.values(), key=lambda entry: entry.started)


def progress(store: Store, request: StageRequest) -> tuple[int, int] | None:
    """(done, total) steps of a running stage, as it tells them."""
    file: Path = store.work_path(request.output) / "progress.json"
    try:
        told = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return int(told["done"]), int(told["total"])
