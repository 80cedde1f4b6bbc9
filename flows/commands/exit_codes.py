"""Exit codes of `afd`: docs/cli.md has the same table."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit code of a command."""

    DONE = 0
    NO = 1  # the answer is no; also Python's own code for a fault of the program
    REFUSED = 2  # a person can mend it
    DAMAGED = 3  # a store is not whole
    LATER = 75  # EX_TEMPFAIL: the same command after the time that was told
    INTERRUPTED = 130  # 128 + SIGINT
