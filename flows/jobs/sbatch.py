"""submitit's batch script, sent with nothing but what is meant.

A job inherits no environment: sbatch gets a list of names, and the SLURM_* and SBATCH_* variables
of a head that itself runs inside a job are taken away. What a job computes lies under the token of
its submission, and the job itself links it to the name under which submitit looks for it: it runs
even if nobody here ever learns its number.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission

from flows.jobs.slurm_queue import run

CONTROLLER_VARIABLES = frozenset({"SLURM_CONF", "SLURM_JWT"})  # address and key of the controller
SBATCH_PATIENCE_S = 600.0  # a submission is waited for on purpose
# As submitit names its job; paths here hold nothing that a shell reads (refuse_odd_paths).
LINK = (
    "ln -sfn {pickle} "
    '"{folder}/${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}'
    '_submitted.pkl"'
)


class Sbatch(submitit.SlurmExecutor):
    """submitit's executor; its sbatch sees a chosen environment, and an array is one pickle."""

    def __init__(self, folder: Path, python: str, exported: Sequence[str]) -> None:
        super().__init__(folder, python=python)
        self._exported = exported

    def send(
        self, token: str, act: Callable[[Any], None], args: Any, size: int = 0, at_once: int = 0
    ) -> "subprocess.CompletedProcess[str]":
        """Send one job, or an array of `size` tasks; return the answer of sbatch."""
        if size:
            self.make_array(size, at_once)
        self.folder.mkdir(parents=True, exist_ok=True)
        pickle = f"{token}_submitted.pkl"
        delayed = DelayedSubmission(act, args)
        delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
        delayed.dump(self.folder / pickle)
        script = self.write_script(token, pickle)
        return self.run(script)

    def make_array(self, size: int, at_once: int) -> None:
        """Ask for an array of `size` tasks, `at_once` of them at a time."""
        self.parameters["map_count"] = size
        self.parameters["array_parallelism"] = at_once

    def text(self, command: str, **changed: Any) -> str:
        """Return the batch script that runs `command`, with changed parameters."""
        return _text(command, self.folder, self.parameters | changed)

    def write_script(self, token: str, pickle: str) -> Path:
        """Write the batch script and return its path."""
        script = self.folder / f"{token}_submission.sh"
        link = LINK.format(pickle=pickle, folder=self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        setup = [link, *self.parameters["setup"]]
        script.write_text(self.text(self._submitit_command_str, setup=setup))
        return script

    def run(self, script: Path, *further: str) -> "subprocess.CompletedProcess[str]":
        """Run sbatch. Raises SchedulerError where it is absent or silent."""
        exported = ",".join(name for name in self._exported if name in os.environ) or "NONE"
        command = ["sbatch", "--parsable", f"--export={exported}", *further, str(script)]
        return run(command, SBATCH_PATIENCE_S, _clean())


def _text(command: str, folder: Path, parameters: dict[str, Any]) -> str:
    from submitit.slurm.slurm import _make_sbatch_string  # pyright: ignore[reportPrivateUsage]

    return _make_sbatch_string(command=command, folder=folder, **parameters)


def _clean() -> dict[str, str]:
    """Return the environment of sbatch itself."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in CONTROLLER_VARIABLES or not name.startswith(("SLURM_", "SBATCH_"))
    }
