"""External evaluators: programs that read a folder of mp4 and write one JSON file.

    <videos>/videos.json   [{"video": "3f2a....mp4", "prompt": "...", "fps": 16}, ...]
    <answer>               {"version": "...", "scores": {"<metric>": {"<video>": number or null}}}

The names of videos are hashes: a program cannot know the side. A program that crashes, hangs or
writes invalid or too much output loses its own metrics; every failure is counted and reported, and
none ends the campaign.
"""

import contextlib
import ctypes
import json
import math
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil

from afd.config.evaluators import OutsideEvaluator, OutsideMetric
from afd.errors import InputError
from afd.signals import show_life

MAX_BYTES = 64 << 20  # of its answer, and of its output: 100,000 videos, ten metrics are 50 MB
POLL_S = 0.05
TAIL_CHARS = 600
# Variables that every program gets; its params name the others, so that no secret leaks.
PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
# A program must not download weights: a person puts them in place.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

MARK = "AFD_EVALUATOR"  # in the environment of a program and of everything it starts
_LIBC = ctypes.CDLL(None)

Scores = dict[str, dict[str, float | None]]  # metric -> video -> value; None: it has none


@dataclass(frozen=True)
class Answer:
    """Scores of an evaluator for each video; `error` where it gave no usable answer."""

    scores: Scores  # of every metric and every video
    num_failed: Mapping[str, int]  # metric -> videos without a usable value
    version: str | None  # by the program itself
    error: str | None
    wall_s: float


def run_evaluator(
    evaluator: OutsideEvaluator, videos: Path, names: Sequence[str], work: Path
) -> Answer:
    """Run `evaluator` on the folder `videos`, which holds `names`; log and answer are in `work`.

    No fault of the program raises an error. The program ends with this process in every case.
    """
    answer, log = work / f"{evaluator.name}.json", work / f"{evaluator.name}.log"
    answer.unlink(missing_ok=True)
    places = {"videos": str(videos), "answer": str(answer), "weights": evaluator.weights or ""}
    command = [_filled(part, places) for part in evaluator.command]
    start = time.monotonic()
    error = _run(command, evaluator, log, answer)
    wall_s = time.monotonic() - start
    scores: Scores = {}
    version = None
    if error is None:
        try:
            version, scores = _read(answer, evaluator.metrics, names)
        except AnswerError as wrong:
            error = f"{evaluator.name}: {wrong}; {_tail(log)}"
    for metric in evaluator.metrics:
        by_video = scores.setdefault(metric.name, {})
        for name in names:
            by_video.setdefault(name, None)
    failed = {name: sum(v is None for v in by_video.values()) for name, by_video in scores.items()}
    return Answer(scores, failed, version, error, wall_s)


class AnswerError(InputError):
    """The file is no valid answer."""


def _filled(part: str, places: Mapping[str, str]) -> str:
    for name, place in places.items():
        part = part.replace(f"{{{name}}}", place)
    return part


def _run(command: list[str], evaluator: OutsideEvaluator, log: Path, answer: Path) -> str | None:
    """Run to the end or to the limit; return the error, or None."""
    name = evaluator.name
    variables = {*PASSED, *evaluator.variables}
    mark = uuid.uuid4().hex
    environment = {k: v for k, v in os.environ.items() if k in variables} | OFFLINE | {MARK: mark}
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, no lock
            )
        except OSError as error:
            return f"{name}: {command[0]} cannot be started: {error.strerror}; correct its command"
        try:
            ended = _watch(process, (log, answer), evaluator.timeout_min * 60)
        finally:
            _kill_all(process, mark)
    if ended == "too long":
        return (
            f"{name}: not ready after {evaluator.timeout_min:g} min, killed; raise its timeout_min "
            f"or give it fewer videos; {_tail(log)}"
        )
    if ended == "too much":
        return f"{name}: wrote more than {MAX_BYTES >> 20} MB, killed; {_tail(log)}"
    if process.returncode:
        code = process.returncode
        ending = f"died of signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{name}: {ending}; {_tail(log)}"
    return None


def _watch(process: "subprocess.Popen[bytes]", written: tuple[Path, ...], limit_s: float) -> str:
    """Wait for the end, the time limit or endless output."""
    deadline = time.monotonic() + limit_s
    pause = POLL_S
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(pause)
            return "ended"
        show_life()  # the program has a limit of its own
        if any(file.exists() and file.stat().st_size > MAX_BYTES for file in written):
            return "too much"
        left = deadline - time.monotonic()
        if left <= 0:
            return "too long"
        pause = min(0.5, pause * 1.5, left)


def _kill_all(process: "subprocess.Popen[bytes]", mark: str) -> None:
    """Kill a program and all that it started: its group, and processes with its mark."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if other.environ().get(MARK) == mark:
                other.kill()
    process.wait()


def _end_with_parent() -> None:
    """In the child: request SIGKILL when this process ends (Linux)."""
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _tail(log: Path) -> str:
    """Return the end of the program's output, printable."""
    with log.open("rb") as output:
        output.seek(max(0, log.stat().st_size - 4 * TAIL_CHARS))
        text = output.read().decode(errors="replace")
    plain = "".join(c if c.isprintable() or c == "\n" else "?" for c in text).strip()
    return (
        f"its last words ({log}):\n{plain[-TAIL_CHARS:]}" if plain else f"it said nothing ({log})"
    )


def _read(
    answer: Path, metrics: Sequence[OutsideMetric], names: Sequence[str]
) -> tuple[str | None, Scores]:
    """Return version and scores, bad single values as None; raise AnswerError for no answer."""
    try:
        size = answer.lstat().st_size
        if not answer.is_file() or answer.is_symlink():
            raise AnswerError(f"{answer} is no plain file")
        if size > MAX_BYTES:
            raise AnswerError(f"its answer has {size >> 20} MB, more than {MAX_BYTES >> 20}")
        content: Any = json.loads(answer.read_bytes())
    except FileNotFoundError:
        raise AnswerError("it ended well and wrote no answer") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, AnswerError):
            raise
        raise AnswerError(f"its answer is not JSON: {str(error)[:200]}") from None
    scores = cast("dict[str, Any]", content).get("scores") if isinstance(content, dict) else None
    if not isinstance(scores, dict):
        raise AnswerError('its answer holds no "scores" by metric and video')
    found: Scores = {}
    for metric in metrics:
        by_video: Any = cast("dict[str, Any]", scores).get(metric.name)
        if isinstance(by_video, dict):
            values = cast("dict[str, Any]", by_video)
            found[metric.name] = {name: _value(values.get(name), metric) for name in names}
    if not found:
        variables = ", ".join(metric.name for metric in metrics)
        raise AnswerError(f"its answer has none of the metrics {variables}")
    version: Any = cast("dict[str, Any]", content).get("version")
    return (version[:100] if isinstance(version, str) else None), found


def _value(value: Any, metric: OutsideMetric) -> float | None:
    """Return a number within the metric's range, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    is_sound = math.isfinite(number) and metric.low <= number <= metric.high
    return number if is_sound else None
