"""Outcome of a stage as data, which crosses process borders in place of exceptions.

`python -m afd.stages` returns the exit code, the worker writes the Outcome to a file; both carry
one block of text: the event, the files that are kept, the command to go on.
"""

import errno
import traceback
from pathlib import Path
from typing import ClassVar

from pydantic import ValidationError

from afd.config import Frozen
from afd.errors import InputError, Status, UserError

FULL_OR_READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class RefusedError(InputError):
    """Input that a stage refuses: the field, the rule, the cure."""


class StoppedError(UserError):
    """Stop on request: the stage has saved its state and the next attempt goes on from there."""

    status: ClassVar[Status] = "stopped"


class Outcome(Frozen):
    """End of one attempt at a stage; only the store shows if the artifact exists."""

    status: Status
    message: str  # empty when done
    exit_code: int  # negative: the signal that killed the process
    wall_s: float
    log: str | None  # file with the output of the attempt


def status_of(error: BaseException) -> Status:
    """Return the status that an exception stands for."""
    if isinstance(error, UserError):
        return error.status
    is_disk = isinstance(error, OSError)
    return "store" if is_disk and error.errno in FULL_OR_READ_ONLY else "failed"


def explain(error: BaseException, stage: str, store: Path) -> str:
    """Return one block of text: the event, the files that are kept, the way to go on."""
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
                f"{stage}: {error}\n"
                f"  nothing was computed; everything finished is kept in {store}\n"
                "  correct the input and run the same command again"
            )
        case _:
            where = traceback.extract_tb(error.__traceback__)[-1:]
            place = f" ({Path(where[0].filename).name}:{where[0].lineno})" if where else ""
            return (
                f"{stage}: {type(error).__name__}: {error}{place}\n"
                f"  every finished artifact and the stage's last checkpoint are kept in {store}\n"
                "  run the same command again to go on from there"
            )


def invalid(error: ValidationError) -> str:
    """Return all problems of a request file in one line."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
