"""submitit's SLURM executor, given nothing but what is meant.

A job inherits no environment: sbatch gets a list of names, and the SLURM_* and SBATCH_* variables
of a head that itself runs inside a job are taken away.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission

CONTROLLER_VARIABLES = frozenset({"SLURM_CONF", "SLURM_JWT"})  # address and key of the controller


class Sbatch(submitit.SlurmExecutor):
    """submitit's executor; its sbatch sees a chosen environment, and an array is one pickle."""

    def __init__(self, folder: Path, python: str, exported: Sequence[str]) -> None:
        super().__init__(folder, python=python)
        self._exported = exported

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        foreign = [
            word
            for name in os.environ
            if name.startswith(("SLURM_", "SBATCH_")) and name not in CONTROLLER_VARIABLES
            for word in ("-u", name)
        ]
        exported = ",".join(name for name in self._exported if name in os.environ) or "NONE"
        return ["env", *foreign, "sbatch", f"--export={exported}", str(submission_file_path)]

    def submit_array(self, size: int, at_once: int, act: Callable[[Any], None], args: Any) -> str:
        """Submit an array whose tasks share one pickle; return its id."""
        # 200 tasks: 200 links take 5 ms, 200 pickles ten times as long.
        self.parameters["map_count"] = size
        self.parameters["array_parallelism"] = at_once
        (job,) = self._internal_process_submissions([DelayedSubmission(act, args)])
        shared = job.paths.submitted_pickle
        for task in range(size):
            link = shared.with_name(f"{job.job_id}_{task}_submitted.pkl")
            link.hardlink_to(shared)
        return job.job_id
