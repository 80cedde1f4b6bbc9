"""Workers and doors that never end, for the tests of giving up; jobs import them by name."""

import os
import time
from pathlib import Path

from afd.stages.worker import Job


def worker(job: Job) -> None:
    """Serves nothing and does not listen."""
    (job.mailbox / "pid").write_text(str(os.getpid()))
    time.sleep(600)


def door(stage: str, request: str, store: str, num_threads: int) -> int:
    """The door of a stage that hangs (seed 1), or that fails some seconds after its start."""
    del stage, store, num_threads
    Path(request).with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(600 if '"seed":1' in Path(request).read_text() else 4)
    raise SystemExit(1)
