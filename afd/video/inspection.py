"""Inspection of untrusted video files in child processes with bounds on memory and time.

    inspect(path)                     one file
    with Inspectors(2) as pool:       many files in two processes, one a core
        pool.inspect(path)            from any thread (asyncio: asyncio.to_thread)
        for path, verdict in pool.map(paths): ...

This module imports no torch and no decoder: the child does (afd/video/inspector.py).
"""

import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from afd.video.canonical import CanonicalFormat
from afd.video.content import Flag
from afd.video.decode import ClipLimits
from afd.video.inspector import as_json

INSPECTOR = "afd.video.inspector"
CLIPS_PER_CHILD = 500  # then a fresh one: a decoder's leaks do not add up


@dataclass(frozen=True)
class InspectionLimits:
    """Limits of a clip's cost, and the contents that are refused."""

    clip: ClipLimits = field(default_factory=ClipLimits)
    memory_mb: int = 1024
    cpu_s: float = 60.0
    wall_s: float = 600.0  # for a file system that hangs
    refused: tuple[Flag, ...] = ("black", "flat", "frozen")
    min_frames: int = 2  # one frame is a still picture


@dataclass(frozen=True)
class Facts:
    """Properties of a clip that was read to its end."""

    sha256: str  # of the file
    content_sha256: str  # of the decoded planes: equal for equal pictures in another container
    num_bytes: int
    num_frames: int
    fps: float  # mean
    width: int
    height: int
    codec: str
    duration_s: float
    is_variable_rate: bool
    has_sound: bool
    has_c2pa: bool  # a provenance manifest; the original keeps it
    flags: tuple[Flag, ...]
    num_hidden_frames: int = 0  # by an edit list, e.g. before time 0: never shown
    colour: str = ""  # matrix and range by which it was read, and which of them its tags lack


@dataclass(frozen=True)
class ValidClip:
    """Verdict on a clip that can be used."""

    facts: Facts


@dataclass(frozen=True)
class InvalidClip:
    """Verdict on a file that cannot be used; `facts` where it was read to its end."""

    reason: str
    facts: Facts | None = None


LIMITS = InspectionLimits()


def inspect(path: Path, limits: InspectionLimits = LIMITS) -> ValidClip | InvalidClip:
    """Inspect one file in a child of its own (0.5 s to start); `Inspectors` is for many."""
    with Inspectors(1, limits) as pool:
        return pool.inspect(path)


class Inspectors:
    """Thread-safe pool of child processes; memory does not grow with the number of clips."""

    def __init__(self, num_processes: int, limits: InspectionLimits = LIMITS) -> None:
        self._limits = limits
        self._num_processes = num_processes
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(num_processes):
            self._idle.put(None)  # started when first needed

    def __enter__(self) -> "Inspectors":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _ in range(self._num_processes):
            if child := self._idle.get():
                child.end()

    def inspect(
        self, path: Path, canon: CanonicalFormat | None = None, out: Path | None = None
    ) -> ValidClip | InvalidClip:
        """Return the verdict; with `canon` and `out`, write the canonical clip of a valid file.

        Raises RuntimeError where children cannot run at all, whatever the clip is.
        """
        request = {
            "path": str(path),
            "limits": asdict(self._limits.clip),
            "cpu_s": self._limits.cpu_s,
            "canon": as_json(canon) if canon else None,
            "out": str(out) if out else None,
        }
        child = self._idle.get()
        try:
            child = child or _Child(self._limits.memory_mb)
            answer = child.inspect(request, self._limits.wall_s)
        except _ChildError as error:
            if child:
                child.end()
            child, answer = None, {"reason": error.args[0]}
        except BaseException:
            if child:
                child.end()
            child = None
            raise
        finally:
            if child and child.num_inspected >= CLIPS_PER_CHILD:
                child.end()
                child = None
            self._idle.put(child)
        return self._within_limits(answer)

    def pids(self) -> list[int]:
        """Return the ids of the idle children, to measure their cost."""
        return [child.pid for child in list(self._idle.queue) if child]

    def map(
        self, paths: Iterable[Path], canon: CanonicalFormat | None = None, out: Path | None = None
    ) -> Iterator[tuple[Path, ValidClip | InvalidClip]]:
        """Yield each path and its verdict as they come; canonical clips go to the folder `out`.

        They have the names of their originals. `paths` may be endless: few are read ahead.
        """
        with ThreadPoolExecutor(self._num_processes) as threads:
            waiting: dict[Future[ValidClip | InvalidClip], Path] = {}
            for path in paths:
                target = out / f"{path.stem}.mp4" if out else None
                waiting[threads.submit(self.inspect, path, canon, target)] = path
                if len(waiting) >= 2 * self._num_processes:
                    yield from _done(waiting)
            while waiting:
                yield from _done(waiting)

    def _within_limits(self, answer: dict[str, Any]) -> ValidClip | InvalidClip:
        if "reason" in answer:
            return InvalidClip(answer["reason"])
        answered = answer["facts"]
        facts = Facts(**(answered | {"flags": tuple(answered["flags"])}))
        if facts.num_frames < self._limits.min_frames:
            return InvalidClip(f"{facts.num_frames} frame: a still picture, not a video", facts)
        if found := [flag for flag in facts.flags if flag in self._limits.refused]:
            return InvalidClip(f"its pictures are {' and '.join(found)}", facts)
        return ValidClip(facts)


class _ChildError(Exception):
    """The child ended over this clip; the message is the reason."""


class _Child:
    def __init__(self, memory_mb: int) -> None:
        self.num_inspected = 0
        self._memory_mb = memory_mb
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed by `end`
        self._process = subprocess.Popen(
            [sys.executable, "-m", INSPECTOR, str(memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )

    def inspect(self, request: dict[str, Any], wall_s: float) -> dict[str, Any]:
        """Return the child's answer; raise _ChildError where it died or hung over this clip."""
        self.num_inspected += 1
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise _ChildError("the inspecting process has no pipes")
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(stdout, selectors.EVENT_READ)
                if not selector.select(wall_s):
                    raise _ChildError(f"no verdict within {wall_s:g} s")
            line = stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            raise _ChildError(self._exit_reason())
        return json.loads(line)

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """Kill the child and close its pipes."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._stderr.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _exit_reason(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return "took more CPU time than a clip may"
        if code < 0:
            return (
                f"the decoder died of {signal.Signals(-code).name} ({self._memory_mb} MB allowed)"
            )
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        raise RuntimeError(
            f"{INSPECTOR} ended with code {code}: {lines[-1] if lines else 'no word'}"
        )


def _done(
    waiting: dict[Future[ValidClip | InvalidClip], Path],
) -> Iterator[tuple[Path, ValidClip | InvalidClip]]:
    finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in finished:
        yield waiting.pop(future), future.result()
