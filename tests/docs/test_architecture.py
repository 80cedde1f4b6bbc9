"""The page about the architecture has a row for every room, and names no file that is gone."""

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "architecture.md").read_text()
FILE = re.compile(r"`((?:afd|flows)/[\w/]+(?:\.py)?)`")


def test_every_room_has_one_row() -> None:
    rooms = {
        f"{top}/{folder.name}"
        for top in ("afd", "flows")
        for folder in (PROJECT / top).iterdir()
        if (folder / "__init__.py").exists()
    }
    rows = [line.split("`")[1] for line in PAGE.splitlines() if re.match(r"\| `(afd|flows)/", line)]
    assert sorted(rows) == sorted(rooms)


def test_every_file_that_it_names_is_there() -> None:
    named = [name for name in FILE.findall(PAGE) if "NAME" not in name]
    assert len(named) > 20
    assert [name for name in named if not (PROJECT / name).exists()] == []
