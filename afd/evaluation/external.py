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
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
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
    remarks: str | None  # about values that were not used, and videos that nobody asked about
    wall_s: float


def run_evaluator(
    evaluator: OutsideEvaluator, videos: Path, names: Sequence[str], work: Path
) -> Answer:
    """Run `evaluator` on the folder `videos`, which holds `names`; log and answer are in `work`.

    No fault of the program raises an error. The program ends with this process in every case.
    """
    start = time.monotonic()
    version, remarks, scores = None, None, Scores()
    try:
        version, scores, remarks, error = _answer_of(evaluator, videos, names, work)
    except Exception as fault:  # noqa: BLE001 (whatever it left behind costs its own metrics alone)
        error = f"{evaluator.name}: {type(fault).__name__}: {str(fault)[:300]}"
    for metric in evaluator.metrics:
        by_video = scores.setdefault(metric.name, {})
        for name in names:
            by_video.setdefault(name, None)
    failed = {name: sum(v is None for v in by_video.values()) for name, by_video in scores.items()}
    return Answer(scores, failed, version, error, remarks, time.monotonic() - start)


class AnswerError(InputError):
    """The file is no valid answer."""


def _answer_of(
    evaluator: OutsideEvaluator, videos: Path, names: Sequence[str], work: Path
) -> tuple[str | None, Scores, str | None, str | None]:
    """Return version, scores, remarks and error; the answer's folder is the program's own."""
    own = Path(tempfile.mkdtemp(prefix=f"{evaluator.name}-", dir=work))
    answer, log = own / "answer.json", own / "output.log"
    places = {"videos": str(videos), "answer": str(answer), "weights": evaluator.weights or ""}
    command = [_filled(part, places) for part in evaluator.command]
    if (error := _run(command, evaluator, log, answer)) is not None:
        return None, {}, None, error
    try:
        version, scores, remarks = _read(answer, evaluator.metrics, names)
    except AnswerError as wrong:
        return None, {}, None, f"{evaluator.name}: {wrong}; {_tail(log)}"
    if names and not any(v is not None for by_video in scores.values() for v in by_video.values()):
        error = f"{evaluator.name}: no usable value in its answer: {remarks}; {_tail(log)}"
    return version, scores, remarks, error


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
    plain = _printable(text).strip()
    return (
        f"its last words ({log}):\n{plain[-TAIL_CHARS:]}" if plain else f"it said nothing ({log})"
    )


def _printable(text: str) -> str:
    """Return a program's words without control characters and broken Unicode."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def _read(
    answer: Path, metrics: Sequence[OutsideMetric], names: Sequence[str]
) -> tuple[str | None, Scores, str | None]:
    """Return version, scores (bad single values as None) and remarks; raises AnswerError."""
    try:
        size = answer.lstat().st_size
        if not answer.is_file() or answer.is_symlink():
            raise AnswerError(f"{answer} is no plain file")
        if size > MAX_BYTES:
            raise AnswerError(f"its answer has {size >> 20} MB, more than {MAX_BYTES >> 20}")
        content: Any = json.loads(answer.read_bytes())
    except FileNotFoundError:
        raise AnswerError("it ended well and wrote no answer") from None
    except OSError as error:
        raise AnswerError(f"its answer cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, AnswerError):
            raise
        raise AnswerError(f"its answer is not JSON: {str(error)[:200]}") from None
    scores = cast("dict[str, Any]", content).get("scores") if isinstance(content, dict) else None
    if not isinstance(scores, dict):
        raise AnswerError('its answer holds no "scores" by metric and video')
    found: Scores = {}
    remarks: list[str] = []
    for metric in metrics:
        by_video: Any = cast("dict[str, Any]", scores).get(metric.name)
        if isinstance(by_video, dict):
            values = cast("dict[str, Any]", by_video)
            found[metric.name] = {name: _value(values.get(name), metric) for name in names}
            remarks += _remarks(values, metric, names)
        else:
            remarks.append(f"{metric.name}: not in its answer")
    if not found:
        answered = ", ".join(_printable(name)[:40] for name in list(cast("Any", scores))[:5])
        variables = ", ".join(metric.name for metric in metrics)
        raise AnswerError(
            f"its answer has none of the metrics {variables}; it has {answered or 'no metric'}"
        )
    version: Any = cast("dict[str, Any]", content).get("version")
    is_text = isinstance(version, str)
    return (_printable(version[:100]) if is_text else None), found, "; ".join(remarks) or None


def _remarks(
    values: Mapping[str, Any], metric: OutsideMetric, names: Sequence[str]
) -> Iterator[str]:
    """Yield a reason for each kind of value that is not used, with the first of its kind."""
    given = [(name, values[name]) for name in names if values.get(name) is not None]
    wrong = [(name, value) for name, value in given if _value(value, metric) is None]
    strangers = sorted(values.keys() - set(names))
    kinds = {
        f"no value for {len(names) - len(given)} of {len(names)} videos": [
            name for name in names if values.get(name) is None
        ],
        f"{len(wrong)} values that are no number from {metric.low:g} to {metric.high:g}": [
            f"{_printable(repr(value))[:40]} for {name}" for name, value in wrong
        ],
        f"{len(strangers)} videos that nobody asked about": [_printable(n)[:40] for n in strangers],
    }
    for reason, examples in kinds.items():
        if examples:
            yield f"{metric.name}: {reason}, such as {examples[0]}"


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
