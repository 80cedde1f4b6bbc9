"""Standard streams that never stop a command: a closed reader, an ASCII terminal, a full disk."""

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

READER_GONE = (errno.EPIPE, errno.EIO)  # of a pipe, of a closed terminal


class _Stream(io.FileIO):
    """A standard stream; from the first error on what is written to it is dropped."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.error is None:
            try:
                while (num_bytes := super().write(data)) is None:
                    select.select([], [self], [])  # somebody made it non-blocking
                return num_bytes
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


_streams: dict[int, _Stream] = {}


def steady_streams() -> None:
    """Replace stdout and stderr; a stream that is closed leads to /dev/null."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file that is opened gets its number, and the output
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        before: TextIO | None = getattr(sys, name)
        if before is getattr(sys, f"__{name}__"):  # nobody captures it
            setattr(sys, name, _steady(descriptor, before))


def is_reader_gone() -> bool:
    """Return whether nobody can read stdout any more: `| head -1` has ended."""
    error = _streams[1].error if 1 in _streams else None
    return error is not None and error.errno in READER_GONE


def lost_output() -> str:
    """Return why stdout is not whole, "" where it is or where its reader has left."""
    error = _streams[1].error if 1 in _streams else None
    return "" if error is None or is_reader_gone() else error.strerror or str(error)


def can_print_unicode() -> bool:
    """Return whether stdout takes any letter as it is."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def _steady(descriptor: int, before: TextIO | None) -> TextIO:
    raw = _streams[descriptor] = _Stream(descriptor)
    is_line = before.line_buffering if isinstance(before, io.TextIOWrapper) else False
    is_through = before.write_through if isinstance(before, io.TextIOWrapper) else False
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before is not None else "utf-8",
        errors="backslashreplace",  # a letter that the terminal has not, half a name on a disk
        line_buffering=is_line,
        write_through=is_through,
    )
