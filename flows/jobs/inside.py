"""Entry point of a job: it starts the stage as a process, with paths and numbers alone.

Nothing here knows Prefect or MLflow: a compute node needs neither, nor a network. What is pickled
for the job is a StageJob; no environment and no value of the head travels with it.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from afd.attempts import CANCELLED
from afd.errors import EXIT_CODE
from afd.runtime.child import GRACE_S
from afd.runtime.parts import missing
from afd.runtime.request import StageRequest
from afd.store import Store, write_atomic

LOOK_S = 1.0  # for the mark that says it was cancelled
GATHER = -1  # among parts: put them together
QUIET_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT, signal.SIGINT)


@dataclass(frozen=True)
class StageJob:
    """One job, or one array: circumstance only."""

    stage: str
    request: str  # file
    store: str
    num_threads: int
    parts: tuple[int, ...] = ()  # array task k computes parts[k]
    num_parts: int = 0
    num_ranks: int = 1
    hang_s: float | None = None
    cancelled: str = ""  # file: where it exists, this submission was given up


def run_stage(job: StageJob) -> None:
    """Compute the stage, this task's part of it, or this rank's share; leave the exit code."""
    import submitit

    here = submitit.JobEnvironment()
    # The scheduler signals every process of the job: the door saves and ends, this one waits.
    for number in QUIET_SIGNALS:
        signal.signal(number, lambda *_: None)
    if job.num_ranks > 1:
        os.environ["AFD_RANK"] = str(here.global_rank)
        os.environ["AFD_WORLD_SIZE"] = str(job.num_ranks)
    if job.cancelled:
        os.environ[CANCELLED] = job.cancelled
    if not job.parts:
        code = _door(job)
    else:
        part = job.parts[int(here.array_task_id or 0)]
        code = 0 if part == GATHER else _door(job, "--part", f"{part}/{job.num_parts}")
        if code == 0 and _all_whole(job):  # whoever is last puts them together
            code = _door(job, "--gather", str(job.num_parts))
            if part != GATHER and code == EXIT_CODE["busy"]:
                code = 0  # another one does
    left = Path(here.paths.stdout).with_name(f"{here.job_id}_{here.global_rank}.exit")
    note = {"code": code, "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0"))}
    write_atomic(left, json.dumps(note).encode())
    # Past submitit: it would write a result that nobody reads, and the scheduler sees the code.
    raise SystemExit(code if code >= 0 else 128 - code)


def _door(job: StageJob, *piece: str) -> int:
    command = [sys.executable, "-m", "afd.stages", job.stage, "--request", job.request]
    command += ["--store", job.store, "--threads", str(job.num_threads), *piece]
    if job.hang_s is not None:
        command += ["--hang-s", str(job.hang_s)]
    if _is_cancelled(job):
        return EXIT_CODE["stopped"]
    door = subprocess.Popen(command)
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return door.wait(LOOK_S)
        if _is_cancelled(job):  # the scheduler may have lost this node, and cannot tell
            return _stopped(door)


def _stopped(door: "subprocess.Popen[bytes]") -> int:
    """Return its exit code, after its checkpoint."""
    door.terminate()
    try:
        return door.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        door.kill()
        return door.wait()


def _is_cancelled(job: StageJob) -> bool:
    return bool(job.cancelled) and Path(job.cancelled).exists()


def _all_whole(job: StageJob) -> bool:
    request = StageRequest.model_validate_json(Path(job.request).read_bytes())
    store = Store(Path(job.store))
    return not store.have(request.output) and not missing(store, request, job.num_parts)
