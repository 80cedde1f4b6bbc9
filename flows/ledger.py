"""Which jobs this campaign has submitted, on disk before anybody waits for them.

A flow that was killed finds its live jobs here and waits for them instead of submitting again.
"""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from pydantic import ValidationError

from afd.config import Frozen
from afd.stages.mailbox import Owner
from afd.store import write_atomic

if TYPE_CHECKING:
    from submitit import Job

GRACE_S = 3.0  # submitit's controller sends SIGINT, waits 1 s and kills


class JobEntry(Frozen):
    """One job: for the local executor its id is the pid of submitit's controller."""

    job_id: str
    process: Owner
    log: str
    note: str = ""  # for a worker: its mailbox

    def is_alive(self) -> bool:
        return self.process.is_alive()

    def cancel(self) -> None:
        """End the job and everything it started."""
        try:
            controller = psutil.Process(self.process.pid)
            family = [controller, *controller.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        if not self.is_alive():
            return
        for process in reversed(family):
            _quietly(process.terminate)
        _, alive = psutil.wait_procs(family, timeout=GRACE_S)
        for process in alive:
            _quietly(process.kill)

    def exit_code(self) -> int:
        """What the door's process left; -9 when it could not say."""
        file = Path(self.log).with_name(f"{self.job_id}.exit_code")
        return int(file.read_text()) if file.exists() else -9


class Ledger:
    """A folder with one small JSON a job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> JobEntry | None:
        try:
            return JobEntry.model_validate_json((self._folder / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, name: str, job: "Job[object]", note: str = "") -> JobEntry:
        """Remember a job just submitted; on disk when this returns."""
        entry = JobEntry(
            job_id=job.job_id,
            process=Owner.of(int(job.job_id)),
            log=str(job.paths.stdout),
            note=note,
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._folder / f"{name}.json", entry.model_dump_json().encode())
        return entry

    def forget(self, name: str) -> None:
        (self._folder / f"{name}.json").unlink(missing_ok=True)


def run_door(stage: str, request: str, store: str, num_threads: int) -> int:
    """Inside the job: the door as a process of its own, its exit code kept beside the log."""
    import submitit

    environment = submitit.JobEnvironment()
    command = [sys.executable, "-m", "afd.stages", stage, "--request", request, "--store", store]
    command += ["--threads", str(num_threads)]
    code = subprocess.run(command, check=False).returncode
    folder = Path(environment.paths.stdout).parent
    write_atomic(folder / f"{environment.job_id}.exit_code", str(code).encode())
    return code


def _quietly(act: object) -> None:
    try:
        act()  # type: ignore[operator]
    except psutil.NoSuchProcess:
        return
