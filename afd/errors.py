"""Errors that a person can mend: the text has the cause, what is kept and the next command.

Any other exception is a bug and keeps its traceback. The class decides a stage's exit code.
"""

from typing import ClassVar, Literal

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


class UserError(Exception):
    """Error that is printed without a traceback; a command ends with exit code 2."""

    status: ClassVar[Status] = "refused"
    exit_code: int | None = None  # of a command, where it has one of its own


class InputError(UserError, ValueError):
    """Input that is refused: the field, the rule, the cure."""
