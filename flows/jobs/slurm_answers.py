"""Parsers of SLURM's answers: a line counts if it is well formed, and as ours by its comment.

Sites wrap these programs: banners, warnings and old answers stand between the lines. What no
parser here takes says nothing.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flows.jobs.records import Job, Seen

# A job in any other state has ended. ELSEWHERE and UNSEEN are ours: a process of another host, and
# a job that squeue does not list while nothing says that it has ended.
LIVE = frozenset(
    {
        *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "RESIZING", "SIGNALING"),
        *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "STOPPED"),
        *("STAGE_OUT", "ELSEWHERE", "UNSEEN"),
    }
)
ENDED = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED"),
        *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
    }
)
SQUEUE = ("Comment", "JobArrayID", "State", "Reason", "exit_code", "RestartCnt", "NodeList")
SACCT = ("Comment", "JobName", "JobID", "State", "ExitCode", "NodeList")
OURS = re.compile(r"afd-\S+")  # comments and names of jobs
TASK = re.compile(r"\d+(_\d+)?")
NUMBER = re.compile(r"^(\d+)(?:;[\w.-]+)?$", re.MULTILINE)  # sbatch --parsable: id;cluster


class Line(NamedTuple):
    """One task in an answer, of whoever it is."""

    comment: str
    task: str
    seen: Seen

    def is_of(self, job: Job) -> bool:
        """Return whether it is a task of this submission and not of a recycled number."""
        if self.task.partition("_")[0] != job.job_id:
            return False
        return self.comment == job.token if job.token else bool(OURS.fullmatch(self.comment))


def submitted(stdout: str) -> list[str]:
    """Return what may be the number of the job in an answer of `sbatch --parsable`."""
    return NUMBER.findall(stdout)


def squeue_lines(stdout: str) -> Iterator[Line]:
    """Yield the tasks in an answer of squeue with the fields SQUEUE, each ended by "|"."""
    for cells in _rows(stdout, len(SQUEUE) + 1):
        comment, task, state, reason, code, restarts, node, end = cells
        known = state in LIVE or state in ENDED
        if known and not end and TASK.fullmatch(task) and (restarts or "0").isdigit():
            seen = Seen(
                state=state,
                reason="" if reason == "None" else reason,
                exit_code=exit_code(code),
                num_restarts=int(restarts or 0),
                node=node,
            )
            yield Line(comment, task, seen)


def sacct_lines(stdout: str) -> Iterator[Line]:
    """Yield the ended tasks in an answer of sacct with the fields SACCT.

    Many sites do not store comments: the job's name then says whose it is.
    """
    for comment, name, task, state, code, node in _rows(stdout, len(SACCT)):
        word, _, rest = state.partition(" ")  # "CANCELLED by 1000"
        # What lives squeue knows: such a record was never closed.
        if word in ENDED and TASK.fullmatch(task) and OURS.fullmatch(name):
            seen = Seen(state=word, reason=rest, exit_code=exit_code(code), node=node)
            yield Line(comment, task, seen)


def scontrol_lines(stdout: str) -> Iterator[Line]:
    """Yield the tasks in an answer of `scontrol -o show job`, a waiting array's one by one."""
    for line in stdout.splitlines():
        found = dict(re.findall(r"(?:^|\s)([A-Za-z]+)=(\S*)", line))
        state, job_id = found.get("JobState", ""), found.get("JobId", "")
        known = state in LIVE or state in ENDED
        restarts = found.get("Restarts", "0")
        if not known or not job_id.isdigit() or not restarts.isdigit():
            continue
        reason = found.get("Reason", "")
        seen = Seen(
            state=state,
            reason="" if reason == "None" else reason,
            exit_code=exit_code(found.get("ExitCode", "")),
            num_restarts=int(restarts),
            node=found.get("NodeList", "").replace("(null)", ""),
        )
        for task in _tasks(job_id, found.get("ArrayJobId", ""), found.get("ArrayTaskId", "")):
            yield Line(found.get("Comment", ""), task, seen)


def exit_code(text: str) -> int | None:
    """Return the exit code; negative: the signal. None for what is neither.

    squeue gives the raw wait status, sacct and scontrol "code:signal".
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if found is None:
        return None
    code, signal = int(found[1]), found[2]
    if signal is not None:
        return -int(signal) if int(signal) else code
    return -(code & 0x7F) if code & 0x7F else code >> 8


def _rows(stdout: str, width: int) -> Iterator[Sequence[str]]:
    for line in stdout.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == width:
            yield cells


def _tasks(job_id: str, array: str, indices: str) -> list[str]:
    """Return the ids of a record's tasks: "0-3,7%2" stands for five that wait."""
    if not array.isdigit():
        return [job_id]
    found: list[str] = []
    for piece in indices.partition("%")[0].split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", piece)
        if ends is not None:
            first, last, step = int(ends[1]), int(ends[2] or ends[1]), int(ends[3] or 1)
            found += [f"{array}_{k}" for k in range(first, last + 1, max(1, step))]
    return found
