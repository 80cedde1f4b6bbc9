"""Progress of a campaign in this process: tasks write it, terminals read it."""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from afd.runtime.parts import notices_file
from afd.runtime.request import StageRequest
from afd.store import Store
from flows.record_files import STEPS, known_record

NOTICES = "notices.txt"  # in a campaign's folder


@dataclass(frozen=True)
class RunningStage:
    """A stage that a task waits for."""

    request: StageRequest
    round_index: int | None
    started: float  # time.monotonic()


@dataclass(frozen=True)
class FinishedStage:
    """A stage that has its artifact."""

    request: StageRequest
    round_index: int | None
    wall_s: float  # of the wait; 0 when it was there
    summary: dict[str, float | int | str | None]
    was_there: bool
    spent_s: float = 0.0  # on computing it, by its manifest

    @cached_property
    def fingerprint(self) -> str:
        """Of the artifact; a hash over the whole request, asked for at every draw."""
        return self.request.output.fingerprint


@dataclass(frozen=True)
class Activity:
    """Work of this very process between stages: a server that starts, DVC that keeps a round."""

    name: str
    round_index: int | None
    started: float  # time.monotonic()


@dataclass
class ProgressBoard:
    """Thread-safe; holds a campaign's hundred-odd stages, nothing more."""

    done: list[FinishedStage] = field(default_factory=list[FinishedStage])
    notes: list[str] = field(default_factory=list[str])  # by alarms
    warnings: list[str] = field(default_factory=list[str])  # of stages, e.g. a damaged checkpoint
    rounds: list[int] = field(default_factory=list[int])  # finished, and their artifacts in DVC
    began: float | None = None  # time.monotonic() of the first stage that was not there
    _activities: dict[int, Activity] = field(default_factory=dict[int, Activity])
    _running: dict[int, RunningStage] = field(default_factory=dict[int, RunningStage])
    _num_tried: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def computing(self, request: StageRequest, round_index: int | None) -> Iterator[None]:
        entry = RunningStage(request, round_index, time.monotonic())
        with self._lock:
            self._num_tried += 1
            self._running[id(entry)] = entry
            self.began = entry.started if self.began is None else self.began
        try:
            yield
        finally:
            with self._lock:
                del self._running[id(entry)]

    def finish(self, done: FinishedStage) -> None:
        with self._lock:
            self.done.append(done)

    def finish_round(self, round_index: int) -> None:
        with self._lock:
            self.rounds.append(round_index)

    @contextmanager
    def busy(self, name: str, round_index: int | None = None) -> Iterator[None]:
        """`name` is what this process does, as the live view prints it."""
        entry = Activity(name, round_index, time.monotonic())
        with self._lock:
            self._activities[id(entry)] = entry
        try:
            yield
        finally:
            with self._lock:
                del self._activities[id(entry)]

    def activities(self) -> list[Activity]:
        with self._lock:
            return sorted(self._activities.values(), key=lambda entry: entry.started)

    def note(self, line: str) -> None:
        with self._lock:
            if line not in self.notes:
                self.notes.append(line)

    def warn(self, folder: Path, line: str) -> None:
        """Show a line once, and keep it in the campaign's folder for `afd status`."""
        with self._lock, contextlib.suppress(OSError):
            if line in self.warnings or line in saved_notices(folder):
                return
            self.warnings.append(line)
            with (folder / NOTICES).open("a") as file:
                file.write(line + "\n")

    @property
    def has_computed(self) -> bool:
        """True after a stage was tried."""
        with self._lock:
            return self._num_tried > 0

    def running(self) -> list[RunningStage]:
        with self._lock:
            return sorted(self._running.values(), key=lambda entry: entry.started)


def stage_progress(store: Store, request: StageRequest) -> tuple[int, int] | None:
    """Return (done, total) steps of a running stage, None before its first report."""
    file: Path = store.work_path(request.output) / "progress.json"
    steps = known_record(file, STEPS)
    return None if steps is None else (steps["done"], steps["total"])


def take_notices(
    board: ProgressBoard, folder: Path, store: Store, entry: RunningStage, *, is_over: bool = False
) -> None:
    """Show and keep what a stage left for whoever waits for it."""
    file = notices_file(store.work_path(entry.request.output))
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            board.warn(folder, f"{round_label(entry.round_index)} {entry.request.stage}: {line}")
        if is_over:
            file.unlink()


def saved_notices(folder: Path) -> list[str]:
    """Return the notices of a campaign's stages, the oldest first."""
    try:
        return (folder / NOTICES).read_text(errors="replace").splitlines()
    except OSError:
        return []


def round_label(round_index: int | None) -> str:
    """Return "round 7", by the number that files, options, MLflow and Prefect use: from 0."""
    return "campaign" if round_index is None else f"round {round_index}"
