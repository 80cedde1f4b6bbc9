"""Errors whose text is meant for a person: what happened, what is kept, what to type next."""

from afd.attempts import StoreError


class UserError(RuntimeError):
    """Shown without a traceback; the command ends with exit code 2."""


def is_user_error(error: BaseException) -> bool:
    """Return whether an error's text is meant for a person: field, rule, what is kept, the cure.

    Besides ours that is what a stage would call refused: an error class of afd's own, and what
    flows derives from one. A bare ValueError is a bug.
    """
    is_ours = isinstance(error, ValueError) and any(
        kind.__module__.startswith("afd.") for kind in type(error).__mro__
    )
    return is_ours or isinstance(error, StoreError | UserError)
