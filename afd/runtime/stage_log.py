"""Log of one stage: start, progress and end.

The logger "afd.stages" writes to the stderr of the stage's own process, which its launcher saves as
a file; inside a larger program it is silent until that program sets a handler.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping

from afd.artifacts import Artifact
from afd.runtime.request import StageRequest

log = logging.getLogger("afd.stages")
NUM_LINES = 20  # about progress, of a stage of many short steps
PERIOD_S = 30.0  # at the least, for steps that take long
PERIOD_SHARE = 0.02  # of the time gone: ten days make some 400 lines
NUM_METRICS = 6
FORMAT, DATE_FORMAT = "%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"


def write_to_stderr() -> None:
    """Send the log of this process, which computes one stage, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT, DATE_FORMAT))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def log_start(request: StageRequest, num_threads: int, num_ranks: int, part: str = "") -> None:
    """Log host, device, threads and inputs."""
    if not log.isEnabledFor(logging.INFO):
        return
    where = f"{socket.gethostname()}, pid {os.getpid()}, {_device(request)}"
    ranks = f", {num_ranks} ranks" if num_ranks > 1 else ""
    threads = f"{num_threads} thread{'' if num_threads == 1 else 's'}"
    log.info("%s%s starts on %s, %s%s", request.stage, part, where, threads, ranks)
    for role, ref in request.inputs.items():
        log.info("input %s: %s %s", role, ref.kind, ref.short)


def log_end(artifact: Artifact, wall_s: float) -> None:
    """Log the seconds, the artifact and its summary."""
    made = artifact.manifest
    num_bytes = sum(entry.num_bytes for entry in made.files.values())
    log.info(
        "done in %.1f s (all attempts: wall %.1f s, cpu %.1f s): %s %s, %d file(s), %.1f MB",
        wall_s, made.wall_s, made.cpu_s, made.kind, artifact.ref.short, len(made.files),
        num_bytes / 1e6,
    )  # fmt: skip
    if made.summary:
        log.info("%s", _values(made.summary))


class StepLog:
    """Progress lines of one stage, bounded in number."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._started = self._logged_at = time.monotonic()
        self._first: int | None = None
        self._logged = 0
        self._metrics: Mapping[str, float | int] = {}

    def measured(self, metrics: Mapping[str, float | int]) -> None:
        """Set the values of the next line."""
        self._metrics = metrics

    def reached(self, done: int, total: int) -> None:
        """Log a line after each twentieth of the work, or when enough time has passed."""
        if self._first is None:
            self._first = self._logged = done - 1
        now = time.monotonic()
        pause = max(PERIOD_S, PERIOD_SHARE * (now - self._started))
        is_due = done - self._logged >= max(1, total // NUM_LINES) or done == total
        if done <= self._logged or not (is_due or now - self._logged_at >= pause):
            return
        seconds = (now - self._started) / (done - self._first)
        values = f"  {_values(self._metrics)}" if self._metrics else ""
        log.info("%s %d of %d  %.3g s each%s", self._unit, done, total, seconds, values)
        self._logged, self._logged_at, self._metrics = done, now, {}


def _device(request: StageRequest) -> str:
    if not request.spec.uses_device or "torch" not in sys.modules:
        return "cpu"
    from afd.device import compute_device

    return str(compute_device())


def _values(values: Mapping[str, object]) -> str:
    chosen = list(values.items())[:NUM_METRICS]
    return "  ".join(f"{key}={_short(value)}" for key, value in chosen)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
