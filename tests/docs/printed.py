"""Command lines as README.md and docs/*.md print them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("afd", "dvc", "git", "make", "mlflow", "pip", "prefect", "python", "source")
SHELLS = ("console", "sh", "bash")
ASSIGNMENT = re.compile(r"^\w+=\S*$")


@dataclass(frozen=True)
class Printed:
    """One command line of a page."""

    page: str
    line: int
    text: str

    @property
    def first_line(self) -> str:
        """The command without what a here-document gives it."""
        return self.text.splitlines()[0]

    @property
    def words(self) -> list[str]:
        """The command and its arguments, without variables set before it."""
        words = shlex.split(self.text, comments=True)
        while words and ASSIGNMENT.match(words[0]):
            words.pop(0)
        return words


def pages(project: Path) -> list[Path]:
    return [project / "README.md", *sorted((project / "docs").glob("*.md"))]


def typed(page: Path) -> list[Printed]:
    """Commands that a page offers to type: its shell blocks, and README's table."""
    lines = page.read_text().splitlines()
    found = list(_blocks(page.name, lines))
    if page.name == "README.md":
        for number, line in enumerate(lines, 1):
            if line.startswith("|"):
                found += [
                    Printed(page.name, number, code)
                    for code in re.findall(r"`([^`]+)`", line)
                    if code.split()[0] in PROGRAMS and " " in code
                ]
    return found


def mentioned(page: Path) -> list[Printed]:
    """Every `afd ...` that a page names in its text or its tables."""
    return [
        Printed(page.name, number, code)
        for number, line in enumerate(page.read_text().splitlines(), 1)
        for code in re.findall(r"`(afd [^`]+)`", line)
    ]


def _blocks(page: str, lines: list[str]) -> Iterator[Printed]:
    """Lines of shell blocks, joined where they end in a backslash; after `$ ` in a console's."""
    kind: str | None = None
    pending = end = ""
    for number, line in enumerate(lines, 1):
        if end:  # inside a here-document
            pending += f"\n{line}"
            if line == end:
                yield Printed(page, number, pending)
                pending = end = ""
            continue
        if line.startswith("```"):
            kind = line[3:].strip() if kind is None else None
            continue
        if kind not in SHELLS or not line.strip() or line.lstrip().startswith("#"):
            continue
        if kind == "console" and not pending and not line.startswith("$ "):
            continue  # what the command prints
        pending += line.removeprefix("$ ").strip()
        if begun := re.search(r"<<'?(\w+)'?$", pending):
            end = begun[1]
            continue
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        text = pending.split("  #")[0].strip()
        pending = ""
        yield Printed(page, number, text)
