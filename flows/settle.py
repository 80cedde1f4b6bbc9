"""After a campaign's process has died: jobs, MLflow and Prefect brought in line with what is so.

Nothing here computes. It holds the campaign while it works, so it cannot meet a living one.

    python -m flows.settle NAME RUNS STORE cancelled|crashed
"""

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from afd.runtime.mailbox import Mailbox
from afd.store import Store
from flows.asked import State, read_asked, write_asked
from flows.hold import HeldError, hold
from flows.jobs import scheduler
from flows.jobs.ledger import WORKER, JobEntry, Ledger
from flows.jobs.scheduler import SLURM, is_live
from flows.mlflow_runs.facts import status_of
from flows.mlflow_runs.recorder import RunRecorder
from flows.places import Places, campaign_folder
from flows.prefect_runs import flow_runs
from flows.prefect_runs.flow_runs import Ended

LEAVES_S = 15.0  # a process that was told to end lets go of its campaign


@dataclass(frozen=True)
class Settled:
    """What was put right."""

    jobs: tuple[JobEntry, ...] = ()
    num_flow_runs: int = 0


def settle(name: str, places: Places, verdict: Ended, *, end_jobs: bool = False) -> Settled:
    """No run of a dead process stays RUNNING, anywhere; `end_jobs`: nor do its jobs.

    Raises HeldError when the campaign runs, SchedulerError when jobs cannot be asked about.
    """
    folder = campaign_folder(name, places)
    if not folder.is_dir():
        return Settled()  # a run that Prefect's button ended before it began
    with hold(folder, name):
        ended = _end_jobs(folder) if end_jobs else ()
        asked = read_asked(folder)
        chosen = asked.cluster.mlflow if asked is not None else None
        recorder = RunRecorder(places.tracking_uri(chosen), folder, Store(places.store))
        recorder.close(status_of(folder))
        if asked is not None and (asked.state == "running" or (ended and verdict == "cancelled")):
            state: State = "cancelled" if verdict == "cancelled" else "killed"
            write_asked(folder, asked.model_copy(update={"state": state}))
        return Settled(ended, flow_runs.settle(folder, verdict))


def settle_when_free(
    name: str, places: Places, verdict: Ended, *, end_jobs: bool = False
) -> Settled:
    """The same, for a campaign whose process was told to end and may need seconds to let go."""
    deadline = time.monotonic() + LEAVES_S
    while True:
        try:
            return settle(name, places, verdict, end_jobs=end_jobs)
        except HeldError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def live_jobs(folder: Path) -> list[JobEntry]:
    """What of a campaign still computes or waits in a queue."""
    entries = [entry for entry in Ledger(folder / "ledger").entries() if not entry.ended]
    seen = scheduler.states([job for entry in entries for job in entry.jobs])
    return [
        entry
        for entry in entries
        if any(is_live(seen.get(task)) for job in entry.jobs for task in job.tasks)
    ]


def _end_jobs(folder: Path) -> tuple[JobEntry, ...]:
    ledger = Ledger(folder / "ledger")
    open_entries = [entry for entry in ledger.entries() if not entry.ended]
    for entry in open_entries:  # jobs see these also where SLURM does not reach them
        ledger.give_up(entry.jobs)
        if entry.name == WORKER:
            Mailbox(Path(entry.note)).stop()
    live = live_jobs(folder)
    unnamed = [
        job.model_copy(update={"job_id": found})
        for entry in open_entries
        for job in entry.jobs
        if job.kind == "slurm" and not job.job_id
        # killed between sbatch and its answer
        if (found := SLURM.find(job.token)) is not None
    ]
    scheduler.cancel([job for entry in live for job in entry.jobs] + unnamed)
    for entry in open_entries:
        ledger.end(entry.name, "cancelled", "cancelled; the next command goes on")
    return tuple(live)


def main(name: str, runs: str, store: str, verdict: str) -> None:
    """For whoever has no time for it: Prefect's serving process, a second Ctrl-C."""
    from flows.quiet import be_quiet

    be_quiet()
    chosen: Ended = next(known for known in get_args(Ended) if known == verdict)
    places = Places(Path(runs), Path(store))
    with contextlib.suppress(HeldError):  # somebody runs it again, and settles what was left
        settle_when_free(name, places, chosen, end_jobs=chosen == "cancelled")


if __name__ == "__main__":
    main(*sys.argv[1:])
