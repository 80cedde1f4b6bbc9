"""Pseudo-terminal with a screen: a command as a person sees it (pexpect runs it, pyte draws)."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pexpect
import pyte

from tests.flows.conftest import PROJECT

PATIENCE_S = 240.0
ROWS = 30


class Terminal:
    """`afd ARGUMENTS` in a window of `cols` columns."""

    def __init__(
        self, folder: Path, *arguments: str, cols: int, environment: Mapping[str, str] | None = None
    ) -> None:
        own = {"TERM": "xterm-256color", "PYTHONPATH": str(PROJECT), **(environment or {})}
        inherited = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")
        }
        self.screen = pyte.HistoryScreen(cols, ROWS, history=10_000, ratio=1.0)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "flows.cli", *arguments],
            cwd=folder,
            env=inherited | own,  # pyright: ignore[reportArgumentType]
            dimensions=(ROWS, cols),
            timeout=PATIENCE_S,
        )

    def read(self) -> bool:
        """Draw what has come; False once the command has ended."""
        try:
            data = self.child.read_nonblocking(65536, timeout=0.2)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        return True

    def until(self, *words: str) -> str:
        """The window once it shows all of `words`."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            window = "\n".join(self.screen.display)
            if all(word in window for word in words):
                return window
            assert self.read() and time.monotonic() < deadline, f"no {words} in\n{self.text()}"

    def end(self) -> int:
        """The exit code, once it has ended by itself."""
        deadline = time.monotonic() + PATIENCE_S
        while self.read():
            assert time.monotonic() < deadline, self.text()
        self.child.wait()
        return -self.child.signalstatus if self.child.exitstatus is None else self.child.exitstatus

    def resize(self, cols: int) -> None:
        self.child.setwinsize(ROWS, cols)
        self.screen.resize(ROWS, cols)

    def hang_up(self) -> None:
        """Close the terminal: the kernel sends SIGHUP to the command, and nobody else does."""
        self.child.ptyproc.fileobj.close()

    def press(self, key: str) -> None:
        self.child.sendcontrol(key)

    def lines(self) -> list[str]:
        """All that a person can read, with what has scrolled off the top."""
        above = [
            "".join(line[column].data for column in range(self.screen.columns))
            for line in self.screen.history.top
        ]
        found = [line.rstrip() for line in [*above, *self.screen.display]]
        while found and not found[-1]:
            found.pop()
        return found

    def text(self) -> str:
        return "\n".join(self.lines())
