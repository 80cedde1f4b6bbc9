"""Records of the jobs of a campaign, on disk before the first wait.

A flow that was killed finds its live jobs here and waits for them instead of submitting again; a
person at another terminal finds what to look at, and what to cancel.

    runs/<campaign>/ledger/<stage>-<fingerprint[:16]>.json   the jobs of one stage; worker.json
    runs/<campaign>/ledger/cancelled/<token>                 a submission that was given up
    runs/<campaign>/submitit/<task>_<rank>_log.out           what they print
    runs/<campaign>/submitit/<task>_<rank>.exit              the exit code that a rank left
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, ValidationError

from afd.config import Frozen, Listed
from afd.processes import ProcessId
from afd.store import write_atomic
from flows.jobs.reasons import cure

WORKER: Literal["worker"] = "worker"
Kind = Literal["local", "slurm"]


def lacks_nodes(reason: str) -> bool:
    """Return whether a job waits for nodes that are drained, down or reserved."""
    return any(word in reason for word in ("DOWN", "DRAINED", "UnavailableNodes"))


class Seen(Frozen):
    """Last answer of the scheduler about a task."""

    state: str  # SLURM's word: PENDING, RUNNING, OUT_OF_MEMORY ...
    reason: str = ""  # why it waits, or why it ended
    exit_code: int | None = None  # negative: the signal
    num_restarts: int = 0  # by the scheduler: preempted, requeued, its node died
    node: str = ""


class Job(Frozen):
    """One submission: a process, a job, or an array of which each task computes one part."""

    job_id: str  # a pid, or the number that sbatch gave; "" until it has answered
    kind: Kind
    token: str = ""  # in the job's comment: finds a job whose number never reached the disk
    process: ProcessId | None = None  # local
    parts: Listed[tuple[int, ...]] = ()  # array task k computes parts[k]
    num_parts: int = 0  # of the stage; 0: it is computed whole
    seen: dict[str, Seen] = Field(default_factory=dict[str, Seen])  # by task
    seen_at: str = ""  # UTC, of the last answer of the scheduler

    @property
    def tasks(self) -> tuple[str, ...]:
        """Scheduler's ids of its tasks."""
        if not self.job_id:
            return ()
        if not self.parts:
            return (self.job_id,)
        return tuple(f"{self.job_id}_{k}" for k in range(len(self.parts)))


class StageRecord(Frozen):
    """Jobs of one stage: all its submissions, oldest first."""

    name: str  # the request's id, or "worker"
    stage: str
    fingerprint: str
    folder: str  # of the logs
    jobs: Listed[tuple[Job, ...]]
    attempts: int  # submissions of this stage, over all commands
    submitted_at: str  # UTC
    note: str = ""  # for a worker: its mailbox
    ended: str = ""  # how the stage ended; "" while somebody may wait for it
    message: str = Field(
        default="", validation_alias=AliasChoices("message", "told"), serialization_alias="told"
    )  # of that end

    def with_job(self, job: Job, at: str) -> "StageRecord":
        """Return the record with a new submission, or a newer state of the one with its token."""
        others = tuple(known for known in self.jobs if known.token != job.token or not job.token)
        before = [known for known in self.jobs if known not in others and known.job_id]
        is_taken = bool(job.job_id) and not before  # what sbatch refused was no attempt
        changed = {"jobs": (*others, job), "submitted_at": at, "ended": "", "message": ""}
        return self.model_copy(update=changed | {"attempts": self.attempts + is_taken})

    @property
    def kind(self) -> Kind:
        return self.jobs[-1].kind if self.jobs else "local"

    @property
    def job_id(self) -> str:
        """Id of the newest submission."""
        return self.jobs[-1].job_id if self.jobs else ""

    @property
    def waits(self) -> str:
        """SLURM's reason why the newest submission waits, and what helps; "" once it runs."""
        if self.ended or not self.jobs or not self.jobs[-1].seen:
            return ""
        seen = self.jobs[-1].seen.values()
        states = dict.fromkeys(one.state for one in seen)
        if not states.keys() <= {"PENDING", "SUSPENDED"}:
            return ""
        reasons = ", ".join(dict.fromkeys(one.reason for one in seen if one.reason))
        if not reasons and "SUSPENDED" not in states:
            return ""
        words = f"job {self.job_id} {' and '.join(states)}" + (f" ({reasons})" if reasons else "")
        helps = cure(reasons, self.stage)
        return f"{words}: {helps}" if helps else words

    @property
    def log(self) -> str:
        """Log of the newest submission's first task."""
        return self.log_of(next(iter(self.jobs[-1].tasks), "")) if self.jobs else ""

    @property
    def logs(self) -> list[Path]:
        """Logs on disk, oldest submission first."""
        found = [Path(self.log_of(task)) for job in self.jobs for task in job.tasks]
        return [log for log in found if log.exists()]

    def log_of(self, task: str, rank: int = 0) -> str:
        return str(Path(self.folder) / f"{task}_{rank}_log.out")


class JobRecords:
    """A folder with one small JSON for everything that computes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> StageRecord | None:
        try:
            return StageRecord.model_validate_json((self._folder / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, entry: StageRecord) -> StageRecord:
        """Write the record; it is on disk when this returns."""
        content = entry.model_dump_json(exclude_defaults=True, by_alias=True).encode()
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._folder / f"{entry.name}.json", content)
        return entry

    def end(self, name: str, ended: str, message: str = "") -> None:
        """Mark a stage as ended; its logs stay."""
        entry = self.read(name)
        if entry is not None and not entry.ended:
            self.write(entry.model_copy(update={"ended": ended, "message": message}))

    def entries(self) -> list[StageRecord]:
        """Return all records, in order of their last submission."""
        names = [
            file.stem for file in self._folder.glob("*.json") if not file.stem.endswith(".request")
        ]
        found = [entry for name in names if (entry := self.read(name)) is not None]
        return sorted(found, key=lambda entry: entry.submitted_at)

    def cancelled_file(self, token: str) -> Path:
        """Return the file that marks a submission as given up: its job publishes nothing."""
        return self._folder / "cancelled" / token

    def give_up(self, jobs: Sequence[Job]) -> None:
        """Leave the mark that jobs look for, also on a node that the scheduler has lost."""
        for job in jobs:
            if job.token:
                mark = self.cancelled_file(job.token)
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()

    def request_file(self, name: str) -> Path:
        """Return the file of a stage's request, which its job reads."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{name}.request.json"


def now() -> str:
    """Return the time now, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
