"""SLURM's queue through squeue, scontrol and sacct: states of our jobs, and their cancellation.

That squeue does not list a job proves nothing: its answer may be empty, old or noise with exit
code 0. A job has ended when a second witness says so: scontrol, which knows its number no more or
as another job's, or sacct. Until then it is UNSEEN, at most for ABSENT_S.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from afd.errors import UserError
from flows.jobs.records import Job, Seen
from flows.jobs.slurm_answers import SACCT, SQUEUE, Line, sacct_lines, scontrol_lines, squeue_lines

PATIENCE_S = 60.0  # a busy controller answers late
CANCEL_PATIENCE_S = 20.0  # whoever cancels waits for it
SACCT_PATIENCE_S = 20.0  # the answer of squeue waits for it
SACCT_AGAIN_S = 600.0
ABSENT_S = 600.0  # without any witness for or against: then it is taken for gone
MAX_WITNESSED = 16  # jobs for which one round of queries asks scontrol
GONE = "Invalid job id"
UNSEEN = Seen(state="UNSEEN", reason="squeue does not list it, and nothing says that it ended")


class SchedulerError(UserError):
    """The scheduler did not answer; nothing is known about any job."""


class AbsentError(SchedulerError):
    """A program is not on this machine: no patience helps."""


class Slurm:
    """The queue of this cluster. Only what bears the comment of a job counts as that job."""

    def __init__(self) -> None:
        self._accounted_at = float("-inf")  # sacct gets no query before then
        self._has_warned = False
        self._gone: set[tuple[str, str]] = set()  # (token, task), by a second witness
        self._absent_since: dict[tuple[str, str], float] = {}

    def states(self, jobs: Sequence[Job], patience_s: float = PATIENCE_S) -> dict[str, Seen]:
        """Return the state of every task; one that is missing has ended and is forgotten."""
        listed = self._listed(jobs, patience_s)
        found: dict[str, Seen] = {}
        lacking: list[tuple[Job, list[str]]] = []
        for job in jobs:
            own = {line.task: line.seen for line in listed.get(job.job_id, ()) if line.is_of(job)}
            found |= {task: own[task] for task in job.tasks if task in own}
            for task in own if self._absent_since else ():
                self._absent_since.pop((job.token, task), None)
            if absent := [task for task in job.tasks if task not in own]:
                lacking.append((job, absent))
        if lacking:
            found |= self._witnessed(lacking, patience_s)
        gone = [job for job, absent in lacking if any(task not in found for task in absent)]
        if gone and time.monotonic() >= self._accounted_at:
            found = self._accounted(gone, patience_s) | found
        return found

    def cancel(self, jobs: Sequence[Job]) -> None:
        """End them, also those that sbatch took before anybody was told their number.

        Raises SchedulerError where nothing says whether a number still is our job.
        """
        chosen: set[str] = set()
        doubted: list[str] = []
        for job in jobs:
            if not job.job_id:
                chosen |= set(self.find(job.token, CANCEL_PATIENCE_S)) if job.token else set()
            elif (bears := self.bears(job)) is None:
                doubted.append(job.job_id)
            elif bears:
                chosen.add(job.job_id)
        if chosen:
            answer = run(["scancel", "--quiet", *sorted(chosen)], CANCEL_PATIENCE_S)
            if answer.returncode and GONE not in answer.stderr:
                raise SchedulerError(answer.stderr.strip() or "scancel failed")
        if doubted:
            raise SchedulerError(f"scontrol does not say whose job {', '.join(doubted)} is")

    def bears(self, job: Job) -> bool | None:
        """Return whether its number is a job with its comment; None where nothing says so."""
        try:
            answer = run(["scontrol", "-o", "show", "job", job.job_id], CANCEL_PATIENCE_S)
            lines = [one for one in scontrol_lines(answer.stdout) if _number(one) == job.job_id]
            if not lines and GONE not in answer.stderr:
                lines = self._listed([job], CANCEL_PATIENCE_S).get(job.job_id, [])
                return any(line.is_of(job) for line in lines) if lines else None
        except SchedulerError:
            return None
        return any(line.is_of(job) for line in lines)

    def find(self, token: str, patience_s: float = PATIENCE_S) -> list[str]:
        """Return the numbers of jobs with this comment: sbatch may have died before its answer.

        Raises SchedulerError where squeue lists none and scontrol does not answer.
        """
        command = ["squeue", "--noheader", "--me", "--array", "--states=all", "-O", _FORMAT]
        trouble: SchedulerError | None = None
        try:
            lines = list(squeue_lines(_stdout(command, patience_s)))
        except SchedulerError as error:
            lines, trouble = [], error
        if not any(line.comment == token for line in lines):  # that answer may be old
            try:
                stdout = _stdout(["scontrol", "-o", "show", "job"], patience_s)
            except SchedulerError as error:
                raise trouble or error from None
            lines = list(scontrol_lines(stdout))
        return sorted({_number(line) for line in lines if line.comment == token})

    def _listed(self, jobs: Sequence[Job], patience_s: float) -> dict[str, list[Line]]:
        """Return squeue's lines by number."""
        job_ids = ",".join(sorted({job.job_id for job in jobs}))
        command = ["squeue", "--noheader", "--array", "--states=all", "-O", _FORMAT]
        answer = run([*command, f"--jobs={job_ids}"], patience_s)
        if answer.returncode and GONE not in answer.stderr:
            raise SchedulerError(answer.stderr.strip() or "squeue failed")
        found: dict[str, list[Line]] = {}
        for line in squeue_lines(answer.stdout):
            found.setdefault(_number(line), []).append(line)
        return found

    def _witnessed(
        self, lacking: Sequence[tuple[Job, list[str]]], patience_s: float
    ) -> dict[str, Seen]:
        """Return the states of tasks that squeue does not list; what is gone is missing here."""
        found: dict[str, Seen] = {}
        num_queries = 0
        for job, absent in lacking:
            open_tasks = [task for task in absent if (job.token, task) not in self._gone]
            if not open_tasks:
                continue
            states: dict[str, Seen] | None = None
            if num_queries < MAX_WITNESSED:
                num_queries += 1
                states = _by_scontrol(job, patience_s)
            for task in open_tasks:
                key = (job.token, task)
                if states is not None and task in states:
                    found[task] = states[task]
                elif states is not None or self._is_long_absent(key):
                    self._gone.add(key)
                else:
                    found[task] = UNSEEN
        return found

    def _is_long_absent(self, key: tuple[str, str]) -> bool:
        at = time.monotonic()
        return at - self._absent_since.setdefault(key, at) > ABSENT_S

    def _accounted(self, jobs: Sequence[Job], patience_s: float) -> dict[str, Seen]:
        """Return the ends from slurmdbd; nothing, and one warning, where there is none."""
        job_ids = ",".join(sorted({job.job_id for job in jobs}))
        command = ["sacct", "-n", "-P", "-X", "-o", ",".join(SACCT), "-j", job_ids]
        try:
            answer = run(command, min(SACCT_PATIENCE_S, patience_s))
        except SchedulerError as error:  # the answer of squeue stays valid
            return self._not_accounted(str(error))
        if answer.returncode:
            return self._not_accounted(answer.stderr.strip() or "no reason given")
        by_id = {job.job_id: job for job in jobs}
        return {
            line.task: line.seen
            for line in sacct_lines(answer.stdout)
            if (job := by_id.get(_number(line))) and line.comment in ("", job.token)
        }

    def _not_accounted(self, trouble: str) -> dict[str, Seen]:
        self._accounted_at = time.monotonic() + SACCT_AGAIN_S
        if not self._has_warned:
            self._has_warned = True
            sys.stderr.write(
                f"warning: sacct does not answer ({trouble.splitlines()[-1]}); the end of a "
                "job that squeue has forgotten is read from the exit code it left on disk\n"
            )
        return {}


def max_array_size() -> int:
    """One more than the largest index of an array on this cluster; indices begin at 0.

    Raises SchedulerError.
    """
    answer = run(["scontrol", "show", "config"])
    for line in answer.stdout.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize" and value.strip().isdigit():
            return int(value)
    raise SchedulerError(answer.stderr.strip() or "scontrol does not tell MaxArraySize")


def run(
    command: Sequence[str],
    patience_s: float = PATIENCE_S,
    env: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run one of SLURM's programs, which no Ctrl-C in this terminal meets.

    Raises SchedulerError where it is absent or silent.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_"))}
    clean["SLURM_BITSTR_LEN"] = "0"  # else the indices of an array are cut after 64 characters
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=clean if env is None else env,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise AbsentError(
            f"{command[0]}: not found; log in to a node of the cluster, or add SLURM's bin to PATH"
        ) from None
    except OSError as error:
        raise SchedulerError(f"{command[0]}: {error.strerror}") from None
    with process:
        try:
            stdout, stderr = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what a site's wrapper has started too
            raise SchedulerError(f"{command[0]} did not answer within {patience_s:g} s") from None
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _stdout(command: Sequence[str], patience_s: float) -> str:
    answer = run(command, patience_s)
    if answer.returncode:
        raise SchedulerError(answer.stderr.strip() or f"{command[0]} failed")
    return answer.stdout


def _by_scontrol(job: Job, patience_s: float) -> dict[str, Seen] | None:
    """Return scontrol's states of its tasks, none if it is gone; None where it says nothing."""
    try:
        answer = run(["scontrol", "-o", "show", "job", job.job_id], patience_s)
    except SchedulerError:
        return None
    lines = [line for line in scontrol_lines(answer.stdout) if _number(line) == job.job_id]
    if not lines and not (answer.returncode and GONE in answer.stderr):
        return None
    return {line.task: line.seen for line in lines if line.is_of(job)}


def _number(line: Line) -> str:
    return line.task.partition("_")[0]


_FORMAT = ",".join(f"{field}:|" for field in SQUEUE)
