"""What a job may do instead of its stage, for tests of how jobs end; nodes import it by name."""

import os
import signal
import time
from pathlib import Path

from flows.jobs.inside import StageJob


def dies(job: StageJob) -> None:
    """Killed without a word."""
    del job
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def leaves_nothing(job: StageJob) -> None:
    """Ends well, without an artifact."""
    del job
    raise SystemExit(0)


def eats(job: StageJob) -> None:
    """Needs more memory than it was given."""
    del job
    hoard = bytearray(1 << 30)
    time.sleep(60)
    del hoard


def waits(job: StageJob) -> None:
    """Computes nothing, for long."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # submitit would requeue the job
    print("waiting", flush=True)
    Path(job.request).with_suffix(".waits").touch()
    time.sleep(300)


def tells_environment(job: StageJob) -> None:
    """Writes down what it sees."""
    seen = "\n".join(f"{name}={value}" for name, value in sorted(os.environ.items()))
    Path(job.request).with_suffix(".environment").write_text(seen)
    raise SystemExit(1)
