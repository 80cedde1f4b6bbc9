"""Diagnosis of an ended SLURM job: from the scheduler's state, then the stage's exit code.

Each end has an outcome of its own: what happened on which node, SLURM's state and reason, the exit
code, the last lines of the log, and what to change or that it is tried again.
"""

import json
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from afd.config.cluster import Resourced, Resources
from afd.errors import EXIT_CODE, Status
from afd.runtime.outcome import Outcome
from flows.jobs.batch import SETUP_FAILED
from flows.jobs.records import Seen
from flows.jobs.site import log_tail

BY_CODE: dict[int, Status] = {code: status for status, code in EXIT_CODE.items()}
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
MEMORY_WORDS = re.compile(
    r"[Ee]xceeded (job|step)? ?memory limit|oom[-_ ]kill|out[- ]of[- ]memory", re.I
)
KEEPS = "every finished artifact and the stage's last checkpoint are kept"
AGAIN = "run the same command again to go on from there"


@dataclass(frozen=True)
class EndedTask:
    """One task that ended without leaving what it was to make."""

    task: str
    stage: Resourced
    seen: Seen | None  # None: the scheduler has forgotten it
    log_of: Callable[[int], str]  # by rank
    resources: Resources

    @property
    def num_ranks(self) -> int:
        return self.resources.num_ranks

    @property
    def num_restarts(self) -> int:
        """Restarts by the scheduler; exit codes of earlier runs do not count."""
        return self.seen.num_restarts if self.seen is not None else 0


@dataclass(frozen=True)
class Diagnosis:
    """Outcome of a task, and whether another attempt may succeed."""

    outcome: Outcome
    again: bool


def diagnose(ended: EndedTask, wall_s: float) -> Diagnosis:
    """Return the diagnosis of one task."""
    code, log, is_own = first_cause(ended)
    tail = log_tail(log)
    state = word = ended.seen.state if ended.seen is not None else ""
    if code in KILLED and MEMORY_WORDS.search(tail):
        state = "OUT_OF_MEMORY"  # killed for it by a cluster that has no cgroups to say so
    meaning = _meaning(state, code, is_own=is_own)
    what = meaning.what.format(given=ended.resources)
    cure = meaning.cure.format(stage=ended.stage)
    facts = [f"SLURM: {word or 'unknown'}"]
    if ended.seen is not None and ended.seen.reason:
        facts.append(f"reason {ended.seen.reason}")
    if ended.seen is not None and ended.seen.node:
        facts.append(f"on {ended.seen.node}")
    if code is not None:
        facts.append(f"signal {-code}" if code < 0 else f"exit code {code}")
    lines = [
        f"{ended.stage}: job {ended.task} {what} ({', '.join(facts)})",
        *([tail] if tail else []),
        f"  {KEEPS}",
        f"  {cure}",
    ]
    if meaning.status in ("refused", "store", "busy") and tail:
        lines = [tail]  # the door has said it all
    outcome = Outcome(
        status=meaning.status,
        message="\n".join(lines),
        exit_code=code if code is not None else -9,
        wall_s=wall_s,
        log=log if Path(log).exists() else None,
    )
    return Diagnosis(outcome, meaning.again)


def reports_done(ended: EndedTask) -> bool:
    """Return whether its exit code is 0, so that its files may still appear.

    Of a job that was cancelled before it could leave a code, accounting tells 0 as well.
    """
    state = ended.seen.state if ended.seen is not None else ""
    return first_cause(ended)[0] == 0 and (not state or state not in BY_STATE)


def first_cause(ended: EndedTask) -> tuple[int | None, str, bool]:
    """Return exit code and log of the rank that ended the others, and True.

    Where none has left a code: the scheduler's, which is srun's or the script's, and False.
    """
    left = [
        (code, log)
        for rank in range(ended.num_ranks)
        if (code := left_exit_code(log := ended.log_of(rank), ended.num_restarts)) is not None
    ]
    if left and (len(left) == ended.num_ranks or any(code for code, _ in left)):
        return *max(left, key=lambda one: _weight(one[0])), True
    known = ended.seen.exit_code if ended.seen is not None else None
    if known is None and left:
        return *left[0], True
    return known, ended.log_of(0), False


def _weight(code: int) -> int:
    """Return the weight of a rank's exit code as the cause of the end.

    The stage's own code weighs most, then a kill, then what follows from another rank's end
    (another rank is gone, SIGTERM by --kill-on-bad-exit).
    """
    if code == 0:
        return 0
    if code in (EXIT_CODE["lost"], -signal.SIGTERM):
        return 1
    return 2 if code < 0 else 3


def left_exit_code(log: str, num_restarts: int = 0) -> int | None:
    """Return the exit code in the file beside this log; None where there is none."""
    file = Path(log.replace("_log.out", ".exit"))
    try:
        note = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return int(note["code"]) if note["restart"] >= num_restarts else None


@dataclass(frozen=True)
class Cause:
    """Of one end: the stage's status, whether to try again, what happened, what to do."""

    status: Status
    again: bool
    what: str
    cure: str = AGAIN


BY_STATE = {
    "OUT_OF_MEMORY": Cause(
        "failed",
        False,
        "needed more than its {given.memory}",
        "raise resources.{stage}.mem_gb and run the same command again",
    ),
    "TIMEOUT": Cause(
        "lost",
        True,
        "reached its limit of {given.minutes} minutes",
        "raise resources.{stage}.minutes, or " + AGAIN,
    ),
    "CANCELLED": Cause("failed", False, "was cancelled by somebody else"),
    "DEADLINE": Cause("failed", False, "could not end before its deadline"),
    "PREEMPTED": Cause("lost", True, "was preempted and not requeued"),
    "NODE_FAIL": Cause("lost", True, "lost its node"),
    "BOOT_FAIL": Cause("lost", True, "never started: its node did not boot"),
    "": Cause("lost", True, "is not known to the scheduler any more"),
}
NO_SETUP = Cause(
    "failed",
    False,
    "failed in a line of slurm.setup, before the stage",
    "correct slurm.setup in the cluster's params and run the same command again",
)
NO_STAGE = Cause("lost", True, "ended, and its stage has left no word: srun, the node or Python")
BY_STATUS: dict[Status, Cause] = {
    "done": Cause("failed", False, "ended well but left no result"),
    "failed": Cause("failed", False, "failed"),
    "refused": Cause("refused", False, "was refused"),
    "store": Cause("store", False, "met a disk that refuses"),
    "busy": Cause("busy", True, "found another process making this"),
    "stopped": Cause("lost", True, "was told to stop, and saved a checkpoint"),
    "lost": Cause("lost", True, "ended before its stage did"),
}


def _meaning(state: str, code: int | None, *, is_own: bool) -> Cause:
    """Return the cause from the scheduler's state where it has one, else from the exit code.

    A code means a stage's status only if the stage has left it: srun, a container or a line of
    setup end with 2 or 3 for reasons of their own.
    """
    if not is_own and code == SETUP_FAILED and state not in BY_STATE:
        return NO_SETUP
    if not is_own and code is not None and 1 < code < 128 and state not in BY_STATE:
        return NO_STAGE
    status = BY_CODE.get(code, "lost") if code is not None else "lost"
    if state in BY_STATE and not (state == "" and status in ("failed", "refused", "store")):
        return BY_STATE[state]
    number = None if code is None or 0 <= code <= 128 else abs(code) % 128
    if number is not None:
        hint = "; out of memory is the usual reason" if number == signal.SIGKILL else ""
        return Cause("lost", True, f"was killed by signal {number}{hint}")
    return BY_STATUS[status]


def rejected(stage: Resourced, words: str, log: str | None = None) -> Outcome:
    """Return the outcome of a job that sbatch refused, with the field to change."""
    message = (
        f"{stage}: SLURM refused the job; its own words:\n{words}\n"
        f"  nothing was submitted; correct {field_of(words, stage)} in the cluster's params "
        "and run the same command again"
    )
    return Outcome(status="refused", message=message, exit_code=2, wall_s=0.0, log=log)


def field_of(words: str, stage: Resourced) -> str:
    """Return the field of the cluster's params that words of sbatch are about."""
    found = (field for sign, field in FIELDS.items() if sign in words.lower())
    return next(found, "slurm.*").format(stage=stage)


def unreachable(stage: str, error: Exception) -> Outcome:
    """Return the outcome where the scheduler does not answer."""
    message = (
        f"{stage}: SLURM takes no jobs now: {error}\n  {KEEPS}\n"
        "  try `scontrol ping`, then run the same command again"
    )
    return Outcome(status="failed", message=message, exit_code=1, wall_s=0.0, log=None)


# What sbatch says, in lower case -> the field that says otherwise.
FIELDS = {
    "account": "slurm.account (or slurm.partition)",
    "project": "slurm.account",
    "wckey": "slurm.sbatch_flags (--wckey=...)",
    "invalid qos": "slurm.qos",
    "qos": "slurm.qos, or what resources.{stage} asks for",
    "partition": "slurm.partition",
    "reservation": "slurm.reservation",
    "feature": "slurm.constraint",
    "node name": "slurm.exclude",
    "time limit": "resources.{stage}.minutes",
    "--mem": "resources.{stage}.mem_gb (null: no --mem)",
    "memory": "resources.{stage}.mem_gb",
    "gpus-per-task": "slurm.gpus_as (task, node, gres)",
    "generic resource": "resources.{stage}.gpus_per_task or slurm.gpu_type",
    "gres": "resources.{stage}.gpus_per_task or slurm.gpu_type",
    "node configuration": "resources.{stage} (nodes, cpus_per_task, mem_gb, gpus_per_task)",
    "node count": "resources.{stage}.nodes",
    "processors": "resources.{stage}.cpus_per_task",
    "cpu count": "resources.{stage}.cpus_per_task",
    "array": "resources.{stage}.num_parts",
}
