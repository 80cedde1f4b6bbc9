"""`afd status`: state of every campaign of a folder, from disk and one call of squeue.

Nothing is written. It works on any login node that has the folder, with or without a Prefect
server. Nothing is imported that takes seconds.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from afd.params import ParamsError
from afd.runtime.mailbox import Mailbox
from afd.runtime.outcome import RefusedError
from afd.runtime.request import StageRequest
from afd.store import Store
from flows import alarm_log
from flows.campaign_lock import LockHolder, holder_of
from flows.command_text import command
from flows.jobs import scheduler
from flows.jobs.reasons import cure
from flows.jobs.records import WORKER, JobRecords, Seen, StageRecord
from flows.jobs.scheduler import SchedulerError, is_live
from flows.last_command import FILE as LAST_COMMAND
from flows.last_command import LastCommand, read_last_command
from flows.paths import CampaignPaths, campaign_folder, saved_params
from flows.progress import round_label, saved_notices, stage_progress
from flows.round_files import damaged_rounds

PATIENCE_S = 5.0  # for the scheduler: then what was last seen is told, with its age


@dataclass(frozen=True)
class Work:
    """A stage, or the worker that computes many, with its state in the scheduler."""

    stage: str
    jobs: str  # its id, and how many tasks it has
    state: str
    reason: str
    attempts: int
    progress: tuple[int, int] | None = None
    log: str = ""
    age: str = ""  # of a state that the scheduler does not confirm now

    @property
    def cure(self) -> str:
        """Words on what helps a job that waits for its reason."""
        return cure(self.reason, self.stage)


MAX_NOTICES = 5  # of a campaign, shown


@dataclass(frozen=True)
class CampaignStatus:
    """State of one campaign."""

    name: str
    folder: Path
    holder: LockHolder | None
    last_command: LastCommand | None
    rounds_done: int
    num_rounds: int | None  # None: its params are of another version
    notices: tuple[str, ...] = ()  # of its stages, the newest last
    damaged: tuple[str, ...] = ()  # files of rounds, each with its cure
    work: tuple[Work, ...] = ()
    ended_badly: tuple[StageRecord, ...] = ()
    decisions: tuple[dict[str, Any], ...] = ()  # of its alarms, a round each
    waits_after: int | None = None  # the round whose alarm waits for a person

    @property
    def state(self) -> str:
        """One word for a person."""
        if self.holder is not None:
            return "running"
        if self.last_command is None:
            return "finished" if (self.folder / "summary.json").exists() else "stopped"
        return "killed" if self.last_command.state == "running" else self.last_command.state

    @property
    def is_left(self) -> bool:
        """True where the last command did not end and no process runs it."""
        left = self.state in ("killed", "failed", "cancelled") or self.waits_after is not None
        return self.holder is None and left


@dataclass
class Overview:
    """States of all campaigns of a folder."""

    campaigns: list[CampaignStatus] = field(default_factory=list[CampaignStatus])
    scheduler_trouble: str = ""


def overview(runs: Path, name: str | None = None) -> Overview:
    """Return the campaigns in `runs`, with one call of the scheduler for all of them."""
    folders = campaigns_in(runs) if name is None else [runs / name]
    ledgers = {folder: JobRecords(folder / "ledger").entries() for folder in folders}
    live = [entry for entries in ledgers.values() for entry in entries if not entry.ended]
    found = Overview()
    last_seen = {
        task: last for entry in live for job in entry.jobs for task, last in job.seen.items()
    }
    try:
        seen = scheduler.states([job for entry in live for job in entry.jobs], PATIENCE_S)
        unseen = {task for task, one in seen.items() if one.state == "UNSEEN"}
        seen |= {task: last_seen[task] for task in unseen if task in last_seen}
    except SchedulerError as error:
        found.scheduler_trouble, unseen = str(error), set(last_seen)
        seen = last_seen
    found.campaigns = [
        _campaign_status(folder, ledgers[folder], seen, unseen) for folder in folders
    ]
    return found


def hint_of_nodes(name: str, runs: Path) -> str:
    """Return the advice for a job whose nodes are drained or down: wait, or cancel it."""
    stops = command("cancel", name, runs=runs)
    return f"goes on by itself when nodes come back; {stops} stops it"


def goes_on(one: CampaignStatus) -> str:
    """Return the command that runs the rounds that are left, on the cluster of the last command."""
    last_command, source = one.last_command, one.last_command and one.last_command.cluster_source
    return command(
        *("campaign", one.name),
        *(f"--set-cluster={value}" for value in (source.overrides if source else ())),
        runs=one.folder.parent,
        store=Path(last_command.store) if last_command else None,
        cluster=Path(source.file) if source else None,
    )


def alarm_lines(one: CampaignStatus) -> list[str]:
    """Return what the last round's alarms found, and what they have changed since the first."""
    changed = [
        f"{round_label(record['round'])}: {change}"
        for record in one.decisions[:-1]
        for change in record["changes"]
    ]
    return changed + [line for record in one.decisions[-1:] for line in alarm_log.lines(record)]


def known_campaign(name: str, runs: Path) -> Path:
    """Return the folder of a campaign; raises RefusedError, or ParamsError for a bad name."""
    folder = campaign_folder(name, CampaignPaths(runs))
    if not folder.is_dir():
        names = ", ".join(known.name for known in campaigns_in(runs)) or "none"
        raise RefusedError(f"{name}: no such campaign in {runs}; there: {names}")
    return folder


def campaigns_in(runs: Path) -> list[Path]:
    """Return the folders of campaigns, in the order of their last commands."""
    found = [file.parent for file in runs.glob("*/params.yaml")]

    def touched(folder: Path) -> float:
        files = (folder / LAST_COMMAND, folder / "params.yaml")
        return max(file.stat().st_mtime for file in files if file.exists())

    return sorted(found, key=touched)


def _campaign_status(
    folder: Path, entries: list[StageRecord], seen: dict[str, Seen], old: set[str]
) -> CampaignStatus:
    last_command = read_last_command(folder)
    store = Store(Path(last_command.store)) if last_command else None
    try:
        params = saved_params(folder)
    except ParamsError:
        params = None
    live = [entry for entry in entries if not entry.ended]
    rounds = sorted((folder / "rounds").glob("[0-9]*.json"))
    damaged = damaged_rounds(folder)
    return CampaignStatus(
        name=folder.name,
        folder=folder,
        holder=holder_of(folder),
        last_command=last_command,
        rounds_done=len(set(rounds) - damaged.keys()),
        notices=tuple(saved_notices(folder)[-MAX_NOTICES:]),
        damaged=tuple(damaged.values()),
        num_rounds=None if params is None else params.num_rounds,
        work=tuple(work for entry in live for work in _work(folder, entry, seen, old, store)),
        ended_badly=tuple(
            entry for entry in entries if entry.ended not in ("", "done", "cancelled", "stopped")
        ),
        decisions=tuple(alarm_log.records(folder)),
        waits_after=alarm_log.paused_after(folder),
    )


def _work(
    folder: Path, entry: StageRecord, seen: dict[str, Seen], old: set[str], store: Store | None
) -> list[Work]:
    """Return the job of an entry; for a worker also the stages that it computes.

    A state of `old` tasks is the last that was seen, and told with its age.
    """
    tasks = [task for job in entry.jobs for task in job.tasks]
    states = [seen[task] for task in tasks if is_live(seen.get(task))]
    if not states:
        return []
    request = _request(JobRecords(folder / "ledger").request_file(entry.name))
    own = Work(
        stage=entry.stage,
        jobs=entry.job_id + (f" ({len(states)} of {len(tasks)} tasks)" if len(tasks) > 1 else ""),
        state=_counted([one.state for one in states]),
        age=_age(entry, old.intersection(tasks)),
        reason=_counted([one.reason for one in states if one.reason and one.state != "RUNNING"]),
        attempts=entry.attempts,
        progress=stage_progress(store, request) if store and request else None,
        log=entry.log,
    )
    if entry.name != WORKER:
        return [own]
    return [own, *_of_worker(folder, Mailbox(Path(entry.note)), store)]


def _age(entry: StageRecord, old: set[str]) -> str:
    """Return "seen 2 min ago" for states that are the last ones seen; else nothing."""
    seen_at = max((job.seen_at for job in entry.jobs), default="")
    if not old or not seen_at:
        return ""
    age_s = (datetime.now(UTC) - datetime.fromisoformat(seen_at)).total_seconds()
    return f"seen {_rough(max(0.0, age_s))} ago"


def _rough(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _of_worker(folder: Path, box: Mailbox, store: Store | None) -> list[Work]:
    """Return the stages of a worker: requested, or computed by one of its children."""
    found: list[Work] = []
    for where, state in (("run", "computing"), ("req", "asked for")):
        for file in sorted((box.folder / where).glob("[!.]*.json")):
            request = _request(file)
            if request is not None:
                far = stage_progress(store, request) if store else None
                log = str(folder / "logs" / f"{file.stem}.log")
                found.append(Work(request.stage, "in the worker", state, "", 1, far, log))
    return found


def _request(file: Path) -> StageRequest | None:
    """Return a stage's request; None where the file has gone or is no stage's."""
    try:
        content = json.loads(file.read_bytes())
        return StageRequest.model_validate(content.get("request", content))
    except (OSError, ValueError, ValidationError):
        return None


def _counted(words: list[str]) -> str:
    """Return words with their counts, "3 RUNNING, 5 PENDING"; one word alone without its number."""
    counts = Counter(words)
    if len(counts) == 1 and len(words) == 1:
        return words[0]
    return ", ".join(f"{number} {word}" for word, number in counts.most_common())
