"""`afd logs`: the log of a stage, found without knowing job ids or folders."""

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from afd.stages.outcome import RefusedError
from flows.commands.status import CampaignState
from flows.jobs.ledger import WORKER, Ledger

FOLLOW_S = 0.5


@dataclass(frozen=True)
class Log:
    """A file, and whose it is."""

    stage: str
    path: Path
    why: str


def chosen_log(standing: CampaignState, stage: str | None) -> Log:
    """The log of `stage`, or what a person looks for: running, else failed, else the last.

    Raises RefusedError when there is none.
    """
    for why, logs in _candidates(standing):
        for log in reversed(logs):  # the newest first
            if log.path.exists() and stage in (None, log.stage):
                return Log(log.stage, log.path, why)
    known = sorted({log.stage for _, logs in _candidates(standing) for log in logs})
    raise RefusedError(
        f"campaign {standing.name!r}: no log"
        + (f" of a stage {stage!r}" if stage else "")
        + (f"; there are logs of {', '.join(known)}" if known else "; no stage has begun")
    )


def show(log: Log, num_lines: int) -> int:
    """Print the last lines; gives where the file ended then."""
    with log.path.open("rb") as file:
        for line in deque(file, maxlen=num_lines):
            sys.stdout.write(line.decode(errors="replace"))
        sys.stdout.flush()
        return file.tell()


def follow(log: Log, at: int, goes_on: Callable[[], bool]) -> None:
    """Print what is appended, for as long as `goes_on` says, and what came last."""
    with log.path.open("rb") as file:
        file.seek(at)
        while True:
            lives = goes_on()  # asked first: what is written before an end is not missed
            sys.stdout.write(file.read().decode(errors="replace"))
            sys.stdout.flush()
            if not lives:
                return
            time.sleep(FOLLOW_S)


def _candidates(standing: CampaignState) -> list[tuple[str, list[Log]]]:
    """Logs with the reason to look at them, the best reason first, each in order of time."""
    entries = Ledger(standing.folder / "ledger").entries()
    running = [Log(one.stage, Path(one.log), "") for one in standing.work if one.log]
    stages = [log for log in running if log.stage != WORKER]
    failed = [
        Log(entry.stage, path, "") for entry in standing.ended_badly for path in entry.logs[-1:]
    ]
    own = [
        Log(entry.stage, path, "")
        for entry in entries
        for path in entry.logs
        if entry.name != WORKER
    ]
    workers = [
        Log(WORKER, path, "") for entry in entries for path in entry.logs if entry.name == WORKER
    ]
    in_worker = [
        Log(file.stem.rsplit("-", 1)[0], file, "")
        for file in (standing.folder / "logs").glob("*.log")
    ]
    every = sorted(
        (log for log in [*own, *in_worker] if log.path.exists()),
        key=lambda log: log.path.stat().st_mtime,
    )
    return [
        ("running", stages),
        ("waiting", [log for log in running if log.stage == WORKER]),
        ("failed", failed),
        ("the last one", every),
        ("the last worker", workers),
    ]
