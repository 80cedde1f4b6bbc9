"""Reconciliation of jobs, MLflow and Prefect after a campaign's process has died.

Nothing here computes. It holds the campaign while it works, so it cannot meet a living one.

    python -m flows.reconcile NAME RUNS STORE cancelled|crashed
"""

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from afd.runtime.mailbox import Mailbox
from afd.store import Store
from flows.campaign_lock import CampaignRunningError, hold_campaign
from flows.jobs import scheduler
from flows.jobs.records import WORKER, JobRecords, StageRecord
from flows.jobs.scheduler import is_live
from flows.last_command import CommandState, read_last_command, write_last_command
from flows.mlflow_runs.facts import status_of
from flows.mlflow_runs.recorder import RunRecorder
from flows.paths import CampaignPaths, campaign_folder
from flows.prefect_runs import flow_runs
from flows.prefect_runs.flow_runs import Ended

LEAVES_S = 15.0  # a process that was told to end lets go of its campaign


@dataclass(frozen=True)
class Reconciled:
    """Jobs that were ended, and the number of corrected flow runs."""

    jobs: tuple[StageRecord, ...] = ()
    num_flow_runs: int = 0


def reconcile(
    name: str, paths: CampaignPaths, verdict: Ended, *, end_jobs: bool = False
) -> Reconciled:
    """End the runs of a dead process in MLflow and Prefect; with `end_jobs` its jobs too.

    Raises CampaignRunningError when the campaign runs, SchedulerError when the scheduler does not
    answer.
    """
    folder = campaign_folder(name, paths)
    if not folder.is_dir():
        return Reconciled()  # a run that Prefect's button ended before it began
    with hold_campaign(folder, name):
        ended = _end_jobs(folder) if end_jobs else ()
        last = read_last_command(folder)
        chosen = last.cluster.mlflow if last is not None else None
        recorder = RunRecorder(paths.tracking_uri(chosen), folder, Store(paths.store))
        recorder.close(status_of(folder))
        if last is not None and (last.state == "running" or (ended and verdict == "cancelled")):
            state: CommandState = "cancelled" if verdict == "cancelled" else "killed"
            write_last_command(folder, last.model_copy(update={"state": state}))
        return Reconciled(ended, flow_runs.reconcile(folder, verdict))


def reconcile_when_free(
    name: str, paths: CampaignPaths, verdict: Ended, *, end_jobs: bool = False
) -> Reconciled:
    """Reconcile a campaign whose process may need up to LEAVES_S to release its lock."""
    deadline = time.monotonic() + LEAVES_S
    while True:
        try:
            return reconcile(name, paths, verdict, end_jobs=end_jobs)
        except CampaignRunningError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def live_jobs(folder: Path) -> list[StageRecord]:
    """Return the entries whose jobs run or are queued."""
    entries = [entry for entry in JobRecords(folder / "ledger").entries() if not entry.ended]
    seen = scheduler.states([job for entry in entries for job in entry.jobs])
    return [
        entry
        for entry in entries
        if any(is_live(seen.get(task)) for job in entry.jobs for task in job.tasks)
    ]


def _end_jobs(folder: Path) -> tuple[StageRecord, ...]:
    ledger = JobRecords(folder / "ledger")
    open_entries = [entry for entry in ledger.entries() if not entry.ended]
    for entry in open_entries:  # jobs see these also where SLURM does not reach them
        ledger.give_up(entry.jobs)
        if entry.name == WORKER:
            Mailbox(Path(entry.note)).stop()
    live = live_jobs(folder)
    unnamed = [  # killed between sbatch and its answer
        job
        for entry in open_entries
        for job in entry.jobs
        if job.kind == "slurm" and not job.job_id
    ]
    scheduler.cancel([job for entry in live for job in entry.jobs] + unnamed)
    for entry in open_entries:
        ledger.end(entry.name, "cancelled", "cancelled; the next command goes on")
    return tuple(live)


def main(name: str, runs: str, store: str, verdict: str) -> None:
    """Reconcile for Prefect's serving process and for a second Ctrl-C."""
    from flows.library_env import set_library_defaults

    set_library_defaults()
    chosen: Ended = next(known for known in get_args(Ended) if known == verdict)
    paths = CampaignPaths(Path(runs), Path(store))
    # Whoever runs the campaign again reconciles what was left.
    with contextlib.suppress(CampaignRunningError):
        reconcile_when_free(name, paths, chosen, end_jobs=chosen == "cancelled")


if __name__ == "__main__":
    main(*sys.argv[1:])
