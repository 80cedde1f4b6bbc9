"""Execution context of a campaign, with the log, wait and cancel helpers of every dispatch."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from afd.artifacts import ArtifactRef
from afd.config import Cluster
from afd.store import Store

POLL_S = 0.01  # how often a waiting thread looks at first
MAX_POLL_S = 0.1  # and when it has waited for some seconds: long stages are not looked at often
TAIL_LINES = 20
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")  # of afd/runtime/stage_log.py
LATE_S = 65.0  # NFS may hide for that long what another host has written (acdirmax is 60)


class GivenUpError(RuntimeError):
    """The campaign ends and computes nothing more; another error has the reason."""


@dataclass(frozen=True)
class Site:
    """Store, folder and cluster of a campaign; no part of an identity."""

    store: Store
    folder: Path  # of the campaign: ledger, worker and logs live below it
    cluster: Cluster

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def submitit(self) -> Path:
        """Of the jobs: scripts, pickles, logs and exit codes."""
        return (self.folder / "submitit").resolve()


def log_tail(log: str | None) -> str:
    """Return the last lines of an attempt's log; progress lines where it has no other."""
    if log is None or not Path(log).exists():
        return ""
    lines = Path(log).read_text(errors="replace").splitlines()
    words = [line for line in lines if not LOG_LINE.match(line)]
    return "\n".join((words or lines)[-TAIL_LINES:])


def look_anew(folder: Path) -> None:
    """Have NFS ask its server what stands in `folder`: opening it does, a look at a file not."""
    with contextlib.suppress(OSError):  # whether it is there is asked elsewhere
        list(folder.iterdir())


def comes(store: Store, ref: ArtifactRef) -> bool:
    """Return whether an artifact of another host appears here within LATE_S."""
    deadline = time.monotonic() + LATE_S
    while not store.have(ref) and time.monotonic() < deadline:
        look_anew(store.path(ref).parent)
        time.sleep(MAX_POLL_S)
    return store.have(ref)


def pause(waited_s: float) -> None:
    """Sleep between two looks: at first POLL_S, later up to MAX_POLL_S."""
    time.sleep(min(MAX_POLL_S, POLL_S + waited_s / 50))


@contextmanager
def cancelling(cancel: Callable[[], None]) -> Iterator[None]:
    """Call `cancel` when the wait is interrupted (Ctrl-C, a cancelled flow run)."""
    finished = False
    try:
        yield
        finished = True
    finally:
        if not finished:
            cancel()
