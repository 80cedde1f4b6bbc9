"""`afd logs`: the log of a stage, found without knowing job ids or folders."""

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from afd.runtime.outcome import RefusedError
from afd.runtime.request import StageName
from flows.commands.output import is_reader_gone
from flows.commands.status import CampaignStatus
from flows.jobs.records import WORKER, JobRecords

FOLLOW_S = 0.5
STAGES = (*get_args(StageName), WORKER)


@dataclass(frozen=True)
class Log:
    """Log file of a stage, and the reason to show it."""

    stage: str
    path: Path
    why: str


def chosen_log(status: CampaignStatus, stage: str | None) -> Log:
    """Return the log of `stage`, else of a running stage, else a failed one, else the last.

    Raises RefusedError when there is none.
    """
    for why, logs in _candidates(status):
        for log in reversed(logs):  # the newest first
            if log.path.exists() and stage in (None, log.stage):
                return Log(log.stage, log.path, why)
    known = sorted({log.stage for _, logs in _candidates(status) for log in logs})
    raise RefusedError(
        f"campaign {status.name!r}: no log"
        + (f" of a stage {stage!r}" if stage else "")
        + (f"; there are logs of {', '.join(known)}" if known else "; no stage has begun")
    )


def show(log: Log, num_lines: int) -> int:
    """Print the last lines; return the size of the file then."""
    with log.path.open("rb") as file:
        for line in deque(file, maxlen=num_lines):
            sys.stdout.write(line.decode(errors="replace"))
        sys.stdout.flush()
        return file.tell()


def follow(log: Log, at: int, state: Callable[[], CampaignStatus], *, one: bool) -> None:
    """Print what is appended while the stage runs; unless `one`, go on with the stages after it."""
    seen = {log.path}
    while True:
        _follow_one(log.path, at, state)
        upcoming = None if one else _next_log(seen, state)
        if upcoming is None:
            return
        log, at = upcoming, 0
        seen.add(log.path)
        sys.stdout.write(f"==> {log.path} (running) <==\n")


def campaign_and_stage(
    runs: Path, first: str | None, name: str | None, stage: str | None
) -> tuple[str | None, str | None]:
    """Return campaign and stage of `logs [NAME] [--stage STAGE]`.

    Earlier versions had `logs STAGE --name NAME`, which still works.
    """
    if first is None:
        return name, stage
    is_campaign = (runs / first / "params.yaml").exists()
    if stage is None and (name is not None or (first in STAGES and not is_campaign)):
        return name, first
    if name not in (None, first):
        raise RefusedError(f"logs {first} --name {name}: two names of a campaign; give one of them")
    return first, stage


def _follow_one(path: Path, at: int, state: Callable[[], CampaignStatus]) -> None:
    with path.open("rb") as file:
        file.seek(at)
        while True:
            lives = path in [log.path for log in _running(state())]
            sys.stdout.write(file.read().decode(errors="replace"))  # after the look: none is missed
            sys.stdout.flush()
            if not lives or is_reader_gone():
                return
            time.sleep(FOLLOW_S)


def _next_log(seen: set[Path], state: Callable[[], CampaignStatus]) -> Log | None:
    """Return the log of the next stage that begins; None once no process runs the campaign."""
    while True:
        now = state()
        for log in _running(now):
            if log.path not in seen and log.stage != WORKER and log.path.exists():
                return log
        if now.holder is None or is_reader_gone():
            return None
        time.sleep(FOLLOW_S)


def _running(state: CampaignStatus) -> list[Log]:
    return [Log(one.stage, Path(one.log), "") for one in state.work if one.log]


def _candidates(status: CampaignStatus) -> list[tuple[str, list[Log]]]:
    """Return logs by reason to show them, the best reason first, each in order of time."""
    entries = JobRecords(status.folder / "ledger").entries()
    running = _running(status)
    stages = [log for log in running if log.stage != WORKER]
    failed = [
        Log(entry.stage, path, "") for entry in status.ended_badly for path in entry.logs[-1:]
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
        for file in (status.folder / "logs").glob("*.log")
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
