"""Submission of jobs from a cluster's params, by submitit's executors."""

import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from afd.config.cluster import Resourced
from afd.processes import ProcessId
from afd.runtime.outcome import RefusedError
from afd.stages.execute import limit_threads
from flows.jobs.batch import batch, sections
from flows.jobs.records import Job
from flows.jobs.scheduler import SLURM
from flows.jobs.site import Site
from flows.jobs.slurm_answers import submitted
from flows.jobs.slurm_queue import AbsentError, SchedulerError

PLAIN_PATH = re.compile(r"/[\w./+@:=,~-]*", re.ASCII)  # % would be sbatch's own pattern
UNCLEAR = (
    "timed out",
    "Unable to contact",
    "Connection re",
    "Transport endpoint",
    "configuration source",
)
TAKES_S = 300.0  # that long a submission is tried; a controller restarts in less
FIRST_PAUSE_S, MAX_PAUSE_S = 2.0, 30.0
T = TypeVar("T")


class RejectedError(RuntimeError):
    """sbatch refused the job: its own words."""


class TakenError(SchedulerError):
    """sbatch gave a number, which no witness confirms yet: nothing is submitted again."""


def submit_local(site: Site, name: str, act: Callable[[Any], object], *args: object) -> Job:
    """Submit a job to this machine: a controller process and its children."""
    from flows.jobs.own_session import OwnSession

    limit_threads(site.cluster.num_threads)  # jobs inherit this process's environment
    executor = OwnSession(folder=site.submitit)
    executor.update_parameters(
        timeout_min=site.cluster.timeout_min, name=name[:32], stderr_to_stdout=True
    )
    job_id = executor.submit(act, *args).job_id
    return Job(job_id=job_id, kind="local", process=ProcessId.of(int(job_id)))


def refuse_odd_paths(site: Site) -> None:
    """Raise RefusedError for a path that a batch script could read as something else."""
    for what, path in (("--runs", str(site.submitit)), ("this Python", sys.executable)):
        if not PLAIN_PATH.fullmatch(path):
            raise RefusedError(
                f"{what}: {path}: on SLURM a path holds letters, digits and _ . / + @ : = , ~ - "
                "only (no blank, no %, no quote); nothing was started; choose another folder"
            )


def new_token() -> str:
    """Return a name for one submission, by which a job without a known id is found."""
    return f"afd-{uuid.uuid4().hex[:16]}"


def submit_slurm(
    site: Site,
    name: str,
    token: str,
    resourced: Resourced,
    act: Callable[[Any], None],
    args: Any,
    parts: Sequence[int] = (),
    num_parts: int = 0,
) -> Job:
    """Submit one job, or one array of `parts`. Raises RejectedError, SchedulerError."""
    executor = batch(site.submitit, site.cluster, resourced, name, token)
    planned = Job(job_id="", kind="slurm", token=token, parts=tuple(parts), num_parts=num_parts)
    # In a thread: Ctrl-C waits until sbatch has ended, and so it is known what SLURM has taken.
    with ThreadPoolExecutor(1) as asking:
        size, at_once = len(parts), sections(site.cluster, resourced)[0].max_jobs
        sent = asking.submit(executor.send, token, act, args, size, at_once)
        return asking.submit(_identified, sent.result(), planned).result()


def _identified(answer: "subprocess.CompletedProcess[str]", planned: Job) -> Job:
    """Return the job that sbatch took: a number counts if it bears the token of the submission."""
    words = _own_words(answer)
    if answer.returncode and words and not any(sign in words for sign in UNCLEAR):
        raise RejectedError(words)
    numbers = submitted(answer.stdout)
    for number in reversed(numbers):
        job = planned.model_copy(update={"job_id": number})
        if SLURM.bears(job):
            return job
    if (found := adopted(planned)) is not None:  # taken, and the answer was lost or is noise
        return found
    if numbers and not answer.returncode:
        raise TakenError(f"sbatch answered {numbers[-1]}, and no job bears our {planned.token}")
    raise SchedulerError(words or "sbatch answered with no number of a job")


def adopted(planned: Job) -> Job | None:
    """Return a submission with its number, found by its comment; a second one is cancelled."""
    first, *others = SLURM.find(planned.token) or [""]
    if others:
        SLURM.cancel([planned.model_copy(update={"job_id": other}) for other in others])
    return planned.model_copy(update={"job_id": first}) if first else None


def patiently(act: Callable[[], T], check_open: Callable[[], None], patience_s: float) -> T:
    """Return the answer of `act`, which is called again while SLURM answers nothing.

    Raises its SchedulerError when `patience_s` is over, and what `check_open` raises.
    """
    deadline, pause_s = time.monotonic() + patience_s, FIRST_PAUSE_S
    while True:
        try:
            return act()
        except AbsentError:
            raise
        except SchedulerError as error:
            if time.monotonic() >= deadline:
                raise
            if pause_s == FIRST_PAUSE_S:
                sys.stderr.write(
                    f"warning: SLURM takes no jobs now: {error}\n"
                    f"  asked again for up to {patience_s / 60:g} minutes\n"
                )
        until = min(deadline, time.monotonic() + pause_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)
        while (left_s := until - time.monotonic()) > 0:
            check_open()
            time.sleep(min(0.1, left_s))


def submit_patiently(
    submit: Callable[[], Job],
    planned: Job,
    check_open: Callable[[], None],
    patience_s: float | None = None,
) -> Job:
    """Submit once, and again only while SLURM says that it has taken nothing.

    Raises RejectedError, SchedulerError, and what `check_open` raises.
    """
    num_calls, taken = 0, None

    def attempt() -> Job:
        nonlocal num_calls, taken
        num_calls += 1
        if num_calls > 1 and (found := adopted(planned)) is not None:
            return found
        if taken is not None:
            raise taken
        try:
            return submit()
        except TakenError as error:
            taken = error
            raise

    return patiently(attempt, check_open, TAKES_S if patience_s is None else patience_s)


def _own_words(answer: "subprocess.CompletedProcess[str]") -> str:
    """Return the lines that sbatch wrote, else the last ones of whatever stands around it."""
    lines = [line.strip() for line in f"{answer.stdout}\n{answer.stderr}".splitlines()]
    words = [line for line in lines if line.startswith("sbatch:")]
    return "\n".join(words or [line for line in lines if line][-3:])
