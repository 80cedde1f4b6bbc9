"""submitit's executor of this machine, whose jobs belong to no terminal.

A Ctrl-C or a closed terminal signals every process of the terminal's session. Jobs have a session
of their own: only the campaign hears it, and ends its jobs in order. What the controller itself
writes goes to a file beside the jobs' logs.
"""

import os
import subprocess
import sys

import submitit
from submitit.local.local import LocalJob

CONTROLLER_LOG = "controllers.log"


class OwnSession(submitit.LocalExecutor):
    """`submitit.LocalExecutor`, its controller started as `start_controller` does."""

    def _submit_command(self, command: str) -> LocalJob[object]:
        environment = {
            "SUBMITIT_LOCAL_NTASKS": "1",
            "SUBMITIT_LOCAL_COMMAND": command,
            "SUBMITIT_LOCAL_TIMEOUT_S": str(int(60 * self.parameters["timeout_min"])),
            "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "30",  # submitit's default
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_STDERR_TO_STDOUT": "1",
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_WITH_SHELL": "",
        }
        with (self.folder / CONTROLLER_LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "submitit.local._local", str(self.folder)],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return LocalJob(folder=self.folder, job_id=str(process.pid), process=process, tasks=[0])
