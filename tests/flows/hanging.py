"""Workers and doors that never end, for the tests of giving up; jobs import them by name."""

import os
import time
from pathlib import Path

from afd.runtime.child import Job
from flows.jobs.inside import StageJob


def worker(job: Job) -> None:
    """Serves nothing and does not listen."""
    (job.mailbox / "pid").write_text(str(os.getpid()))
    time.sleep(600)


def door(job: StageJob) -> None:
    """The door of a stage that hangs (seed 1), or that fails some seconds after its start."""
    request = Path(job.request)
    request.with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(600 if '"seed":1' in request.read_text() else 4)
    raise SystemExit(1)
