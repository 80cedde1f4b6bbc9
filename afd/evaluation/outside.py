"""Evaluators as programs of their own: a folder of mp4 in, one JSON file out, nothing believed.

    <videos>/videos.json   [{"video": "3f2a....mp4", "prompt": "...", "fps": 16}, ...]
    <answer>               {"version": "...", "scores": {"<metric>": {"<video>": number or null}}}

Names of videos tell nothing of who made them. A program that crashes, hangs, answers nonsense or
too much costs its own metrics: every failure is counted and said, none reaches the campaign.
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
from afd.signals import show_life

MAX_BYTES = 64 << 20  # of its answer, and of its output: 100,000 videos, ten metrics are 50 MB
POLL_S = 0.05
TAIL_CHARS = 600
# What a program needs to run at all; the rest is named in its params: no secret by accident.
PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
# What it must not fetch in silence: weights are put in place by a person.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

MARK = "AFD_EVALUATOR"  # in the environment of a program and of everything it starts
_LIBC = ctypes.CDLL(None)

Scores = dict[str, dict[str, float | None]]  # metric -> video -> value; None: it has none


@dataclass(frozen=True)
class Answer:
    """What an evaluator said of each video; `error` when it said nothing usable at all."""

    scores: Scores  # every metric asked for, every video
    num_failed: Mapping[str, int]  # metric -> videos without a usable value
    version: str | None  # as the program itself tells
    error: str | None
    wall_s: float


def ask(evaluator: OutsideEvaluator, videos: Path, names: Sequence[str], work: Path) -> Answer:
    """Run `evaluator` on the folder `videos`, which holds `names`; log and answer are in `work`.

    Never raises for what the program does. It ends with this process, however that ends.
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
        told = scores.setdefault(metric.name, {})
        for name in names:
            told.setdefault(name, None)
    failed = {name: sum(v is None for v in told.values()) for name, told in scores.items()}
    return Answer(scores, failed, version, error, wall_s)


class AnswerError(ValueError):
    """A file that is no answer."""


def _filled(part: str, places: Mapping[str, str]) -> str:
    for name, place in places.items():
        part = part.replace(f"{{{name}}}", place)
    return part


def _run(command: list[str], evaluator: OutsideEvaluator, log: Path, answer: Path) -> str | None:
    """Run to the end or to the limit; what went wrong, or None."""
    name = evaluator.name
    wanted = {*PASSED, *evaluator.variables}
    mark = uuid.uuid4().hex
    environment = {k: v for k, v in os.environ.items() if k in wanted} | OFFLINE | {MARK: mark}
    with log.open("wb") as said:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
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
        how = f"died of signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{name}: {how}; {_tail(log)}"
    return None


def _watch(process: "subprocess.Popen[bytes]", written: tuple[Path, ...], limit_s: float) -> str:
    """Wait for the end, the time limit or endless output."""
    deadline = time.monotonic() + limit_s
    pause = POLL_S
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(pause)
            return "ended"
        show_life()  # it has a limit of its own
        if any(file.exists() and file.stat().st_size > MAX_BYTES for file in written):
            return "too much"
        left = deadline - time.monotonic()
        if left <= 0:
            return "too long"
        pause = min(0.5, pause * 1.5, left)


def _kill_all(process: "subprocess.Popen[bytes]", mark: str) -> None:
    """End a program and everything it started: its group, and who carries its mark."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if other.environ().get(MARK) == mark:
                other.kill()
    process.wait()


def _end_with_parent() -> None:
    """In the child: die when this process is killed (Linux)."""
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _tail(log: Path) -> str:
    """The end of what it said, printable."""
    with log.open("rb") as said:
        said.seek(max(0, log.stat().st_size - 4 * TAIL_CHARS))
        text = said.read().decode(errors="replace")
    plain = "".join(c if c.isprintable() or c == "\n" else "?" for c in text).strip()
    return (
        f"its last words ({log}):\n{plain[-TAIL_CHARS:]}" if plain else f"it said nothing ({log})"
    )


def _read(
    answer: Path, metrics: Sequence[OutsideMetric], names: Sequence[str]
) -> tuple[str | None, Scores]:
    """The answer, checked; raises AnswerError when it is none. Single bad values become None."""
    try:
        size = answer.lstat().st_size
        if not answer.is_file() or answer.is_symlink():
            raise AnswerError(f"{answer} is no plain file")
        if size > MAX_BYTES:
            raise AnswerError(f"its answer has {size >> 20} MB, more than {MAX_BYTES >> 20}")
        told: Any = json.loads(answer.read_bytes())
    except FileNotFoundError:
        raise AnswerError("it ended well and wrote no answer") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, AnswerError):
            raise
        raise AnswerError(f"its answer is not JSON: {str(error)[:200]}") from None
    scores = cast("dict[str, Any]", told).get("scores") if isinstance(told, dict) else None
    if not isinstance(scores, dict):
        raise AnswerError('its answer holds no "scores" by metric and video')
    found: Scores = {}
    for metric in metrics:
        by_video: Any = cast("dict[str, Any]", scores).get(metric.name)
        if isinstance(by_video, dict):
            values = cast("dict[str, Any]", by_video)
            found[metric.name] = {name: _value(values.get(name), metric) for name in names}
    if not found:
        wanted = ", ".join(metric.name for metric in metrics)
        raise AnswerError(f"its answer has none of the metrics {wanted}")
    version: Any = cast("dict[str, Any]", told).get("version")
    return (version[:100] if isinstance(version, str) else None), found


def _value(value: Any, metric: OutsideMetric) -> float | None:
    """A number within the metric's range, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    is_sound = math.isfinite(number) and metric.low <= number <= metric.high
    return number if is_sound else None
