"""Request for a campaign page: everything on it that is not in the store."""

import re
from pathlib import Path
from typing import Any

from afd.artifacts import ArtifactRef
from afd.config import Frozen

PAGE, FOLDER = "index.html", "page"
STAMP, REQUEST = "stamp.js", "request.json"
FILM = re.compile(r"r(?:ound)?\d{3,}-[0-9a-f]{8}-\d+\.mp4")  # r000-... in pages of version 1
VERSION = 2  # raise it when the page changes for an equal request


def film_name(round_index: int, fingerprint: str, number: int) -> str:
    """Return the name of a film of an evaluation; FILM matches it."""
    return f"round{round_index:03d}-{fingerprint[:8]}-{number}.mp4"


class Link(Frozen):
    """An address beyond the page, and what must run before it answers."""

    label: str
    href: str
    note: str = ""


class Change(Frozen):
    """A value of the params that differs from the file the campaign was started with."""

    field: str
    before: str
    after: str


class PageRequest(Frozen):
    """One campaign at one moment."""

    name: str
    folder: str  # runs/<name>
    store: str
    state: str  # one word
    detail: str  # how many rounds
    is_running: bool
    started_at: str
    num_rounds: int
    params: dict[str, Any]
    start: dict[str, ArtifactRef]
    rounds: tuple[dict[str, ArtifactRef], ...]
    final: dict[str, ArtifactRef]
    source: str = ""  # the params file and what was laid over it
    changes: tuple[Change, ...] | None = None  # None: not known
    links: tuple[Link, ...] = ()
    show_commands: tuple[str, ...] = ()  # one a round
    alarms: tuple[str, ...] = ()
    next_command: str = ""  # goes on with what is left
    version: int = VERSION

    @property
    def page(self) -> Path:
        return Path(self.folder) / PAGE
