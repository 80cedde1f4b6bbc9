"""How a stage ended, as data: what crosses process borders instead of exceptions and pickles.

`python -m afd.stages` returns the code, the worker writes the Outcome to a file; both carry one
block of text: what happened, what is kept, the command to go on.
"""

import errno
import traceback
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from afd.attempts import BusyError, LostError, StoreError
from afd.config import Frozen

Status = Literal["done", "refused", "store", "busy", "failed", "lost", "stopped"]
# 1 is what Python itself exits with; a child that dies of signal n has -n and is lost as well.
EXIT_CODE: dict[Status, int] = {
    "done": 0,
    "failed": 1,
    "refused": 2,
    "store": 3,
    "busy": 4,
    "lost": 5,
    "stopped": 6,
}


class RefusedError(ValueError):
    """The stage was handed something it will not work with: which input, the rule, the cure."""


class StoppedError(RuntimeError):
    """Told to stop, the stage has kept what it had: the next attempt goes on from there."""


FAMILIES: tuple[tuple[type[Exception], Status], ...] = (
    (BusyError, "busy"),
    (LostError, "lost"),
    (StoreError, "store"),  # after its own kinds
    (StoppedError, "stopped"),
)


class Outcome(Frozen):
    """How one attempt at a stage ended; whether the artifact exists only the store knows."""

    status: Status
    message: str  # empty when done
    exit_code: int  # negative: the signal that killed the process
    wall_s: float
    log: str | None  # file with the output of the attempt


def status_of(error: BaseException) -> Status:
    """Which outcome an exception means."""
    for family, status in FAMILIES:
        if isinstance(error, family):
            return status
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return "store"
    # An error class of our own says what a person can mend; a bare ValueError is a bug.
    is_ours = type(error).__module__.startswith("afd.")
    return "refused" if is_ours and isinstance(error, ValueError) else "failed"


def explain(error: BaseException, stage: str, kept: Path) -> str:
    """One block for a person: what happened, what is kept, how to go on."""
    match status_of(error):
        case "busy":
            return f"{stage}: {error}\n  wait for it, or stop it; then run the same command again"
        case "store":
            return f"{stage}: {error}"
        case "lost":
            return f"{stage}: {error}\n  to go on, run the same command again"
        case "stopped":
            return f"{stage}: {error}\n  run the same command again to go on from there"
        case "refused":
            return (
                f"{stage}: {error}\n  nothing was computed; everything finished is kept in {kept}\n"
                "  correct the input and run the same command again"
            )
        case _:
            where = traceback.extract_tb(error.__traceback__)[-1:]
            place = f" ({Path(where[0].filename).name}:{where[0].lineno})" if where else ""
            return (
                f"{stage}: {type(error).__name__}: {error}{place}\n"
                f"  every finished artifact and the stage's last checkpoint are kept in {kept}\n"
                "  run the same command again to go on from there"
            )


def invalid(error: ValidationError) -> str:
    """All problems of a request file, one line each."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
