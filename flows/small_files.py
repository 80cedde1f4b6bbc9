"""Small files that are replaced by a rename alone: opened again only when they were."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Content = TypeVar("Content")


class SmallFiles(Generic[Content]):
    """Parsed contents by file: a look costs one stat, however many files there are.

    `parse` gets the bytes; contents are shared and not to be changed. Reading a file that is
    missing raises OSError, and what `parse` raises is raised each time.
    """

    def __init__(self, parse: Callable[[bytes], Content]) -> None:
        self._parse = parse
        self._known: dict[Path, tuple[tuple[int, ...], Content]] = {}

    def read(self, file: Path) -> Content:
        """Return the content of a file as it is now."""
        found = file.stat()
        stamp = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        known = self._known.get(file)
        if known is None or known[0] != stamp:
            known = self._known[file] = (stamp, self._parse(file.read_bytes()))
        return known[1]
