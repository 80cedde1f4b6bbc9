"""Errors that a person can mend: the text has the cause, what is kept and the next command."""

from afd.attempts import StoreError


class UserError(RuntimeError):
    """Error that is printed without a traceback; the command ends with exit code 2."""


def is_user_error(error: BaseException) -> bool:
    """Return whether an error is one that a person can mend.

    Besides UserError those are StoreError and every ValueError class of afd, with the classes
    derived from them. A bare ValueError is a bug.
    """
    is_ours = isinstance(error, ValueError) and any(
        kind.__module__.startswith("afd.") for kind in type(error).__mro__
    )
    return is_ours or isinstance(error, StoreError | UserError)
