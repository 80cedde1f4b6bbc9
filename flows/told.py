"""Errors whose text is meant for a person: what happened, what is kept, what to type next."""


class ToldError(RuntimeError):
    """Shown without a traceback; the command ends with exit code 2."""
