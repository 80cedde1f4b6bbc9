"""Captions of a folder's videos, in the usual layouts.

    sidecar     a.mp4 with a.txt (the caption) or a.json ({"caption": ...})
    metadata    metadata.jsonl, .csv or .parquet: a row a video, its file and its caption
    lists       prompt.txt (or prompts.txt) and videos.txt, line by line

Captions are never guessed from file names. All input is untrusted: a faulty row is reported with
its place, and the other rows are used.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

from afd.errors import InputError
from afd.prompts import check_text

Split = Literal["train", "held_out"]
SPLITS: dict[str, Split] = {
    "train": "train",
    "held_out": "held_out",
    "eval": "held_out",
    "test": "held_out",
    "validation": "held_out",
    "val": "held_out",
}
FILE_FIELDS = ("file_name", "file", "video", "path")
CAPTION_FIELDS = ("caption", "prompt", "text")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
PROMPT_LISTS, VIDEO_LIST = ("prompt.txt", "prompts.txt"), "videos.txt"
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".gif")
# Name of a file that a cache holds by its content: DVC's and the hub's, git-annex's.
CACHED = re.compile(r"([A-Z0-9_]+-s\d+--)?[0-9a-f]{30,128}(\.\w+)?")
LARGEST_TABLE = 512 * 2**20  # bytes: a million captions of 500
LARGEST_SIDECAR = 64 * 2**10


class LayoutError(InputError):
    """The whole folder cannot be read: no layout, several, or an unreadable table."""


@dataclass(frozen=True)
class Captioned:
    """A row: the file's name inside the folder, as written, with its caption."""

    name: str
    caption: str
    split: Split | None
    category: str | None


@dataclass(frozen=True)
class Misread:
    """An unusable row, or a video without a row, with the reason."""

    name: str
    reason: str


def read_captions(root: Path, videos: Sequence[str]) -> Iterator[Captioned | Misread]:
    """Yield each row of the folder's layout; `videos` are the names of its files.

    Raises LayoutError for no layout or more than one.
    """
    root = root.resolve()
    tables = [root / name for name in METADATA if (root / name).is_file()]
    lists = [root / name for name in PROMPT_LISTS if (root / name).is_file()]
    present = [table.name for table in tables]
    if lists and (root / VIDEO_LIST).is_file():
        present.append(f"{lists[0].name} + {VIDEO_LIST}")
    if len(present) > 1 or len(lists) > 1:
        names = ", ".join(present if len(present) > 1 else [one.name for one in lists])
        raise LayoutError(f"{root}: {names}: which of them says the captions? Keep one")
    if not tables and not present:
        yield from _sidecars(root, videos)
        return
    for file in (*tables, *lists, root / VIDEO_LIST):
        if leads_out(root, file):
            raise LayoutError(f"{file}: a link that leads out of the folder; copy the file")
    rows = _read_table(tables[0]) if tables else _read_lists(lists[0], root / VIDEO_LIST)
    listed: set[str] = set()
    for place, row in rows:
        parsed = _row(place, row)
        if isinstance(parsed, Captioned):
            listed.add(PurePosixPath(parsed.name).as_posix())
        yield parsed
    for name in videos:
        if name not in listed:
            yield Misread(name, f"no caption in {present[0]}")


def _sidecars(root: Path, videos: Sequence[str]) -> Iterator[Captioned | Misread]:
    found = False
    for name in videos:
        text, record = (root / name).with_suffix(".txt"), (root / name).with_suffix(".json")
        there = [file for file in (text, record) if _is_file(file)]
        if len(there) == 2:
            yield Misread(name, f"both {text.name!r} and {record.name!r} caption it; keep one")
        elif there:
            found = True
            yield _sidecar(root, name, there[0])
        else:
            yield Misread(name, f"no caption: neither {text.name!r} nor {record.name!r} beside it")
    if not found:
        raise LayoutError(
            f"{root}: no captions: write a .txt or .json beside each video, or a metadata.jsonl, "
            ".csv or .parquet with the columns file_name and caption, or prompt.txt and videos.txt "
            "(captions are never guessed from file names)"
        )


def _is_file(file: Path) -> bool:
    """Return whether a file is there; one whose name is too long for this disk is not."""
    try:
        return file.is_file()
    except OSError:
        return False


def leads_out(root: Path, file: Path) -> bool:
    """Return True if `file`, with all links resolved, is outside the resolved `root`.

    A caption goes to vendors, prompts files and reports: a link could expose any file. A file that
    a cache holds by its content is none of those: DVC, git-annex and the hub link folders so.
    """
    target = file.resolve()
    return not target.is_relative_to(root) and CACHED.fullmatch(target.name) is None


def _sidecar(root: Path, name: str, file: Path) -> Captioned | Misread:
    if leads_out(root, file):
        return Misread(name, f"{file.name!r} is a link that leads out of the folder; copy the file")
    try:
        if file.stat().st_size > LARGEST_SIDECAR:
            return Misread(name, f"{file.name!r} is larger than {LARGEST_SIDECAR} bytes")
        content = file.read_text(encoding="utf-8-sig")
        values = {"caption": content} if file.suffix == ".txt" else json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        return Misread(name, f"{file.name!r} cannot be read: {error}")
    if not isinstance(values, dict):
        return Misread(name, f"{file.name!r} is no JSON object")
    return _row(repr(file.name), values | {"file_name": name})


def _read_table(table: Path) -> Iterator[tuple[str, Any]]:
    """Yield (place, row) of a metadata file."""
    if table.stat().st_size > LARGEST_TABLE:
        raise LayoutError(f"{table}: larger than {LARGEST_TABLE} bytes; split the folder")
    try:
        match table.suffix:
            case ".jsonl":
                with table.open(encoding="utf-8-sig") as lines:
                    for number, line in enumerate(lines, 1):
                        if line.strip():
                            yield f"{table.name}:{number}", _json(line)
            case ".csv":
                with table.open(encoding="utf-8-sig", newline="") as lines:
                    for number, row in enumerate(csv.DictReader(lines, strict=True), 2):
                        yield f"{table.name}:{number}", row
            case _:
                yield from _read_parquet(table)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise LayoutError(f"{table}: cannot be read: {error}") from error


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Misread("", f"no JSON: {error}")


def _read_parquet(table: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    request = {*FILE_FIELDS, *CAPTION_FIELDS, "split", "category"}
    try:
        with pq.ParquetFile(table) as opened:
            columns = [
                name for name in cast("list[str]", opened.schema_arrow.names) if name in request
            ]
            number = 0
            for batch in cast("Iterator[Any]", opened.iter_batches(10_000, columns=columns)):
                for row in batch.to_pylist():
                    yield f"{table.name}, row {number}", row
                    number += 1
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # pyright: ignore[reportUnknownVariableType]
        raise LayoutError(f"{table}: cannot be read: {error}") from None


def _read_lists(prompts: Path, videos: Path) -> Iterator[tuple[str, Any]]:
    try:
        captions = prompts.read_text(encoding="utf-8-sig").splitlines()
        names = videos.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(f"{prompts.parent}: {error}") from error
    if len(captions) != len(names):
        raise LayoutError(
            f"{prompts.name} has {len(captions)} lines, {videos.name} {len(names)}: which caption "
            "belongs to which video? Nothing was read"
        )
    for number, (caption, name) in enumerate(zip(captions, names, strict=True), 1):
        yield f"{videos.name}:{number}", {"caption": caption, "file_name": name}


def _row(place: str, row: Any) -> Captioned | Misread:
    if isinstance(row, Misread):
        return Misread(place, row.reason)
    try:
        if not isinstance(row, dict):
            raise _WrongRow("no object with a file and a caption")
        row = cast("dict[str, Any]", row)
        name = _only(row, FILE_FIELDS)
        place = f"{place}: {name!r:.200}"
        caption = _only(row, CAPTION_FIELDS).strip()
        if wrong := check_text(caption):
            raise _WrongRow(f"caption: {wrong}")
        split, category = row.get("split") or None, row.get("category") or None
        if split is not None and (not isinstance(split, str) or split not in SPLITS):
            raise _WrongRow(f"split {split!r:.80}; write train or held_out")
        if category is not None and (not isinstance(category, str) or check_text(category)):
            raise _WrongRow(f"category {category!r:.80} is no plain text")
    except _WrongRow as error:
        return Misread(place, str(error))
    return Captioned(name, caption, SPLITS[split] if split else None, category)


class _WrongRow(InputError):
    """A faulty row."""


def _only(row: dict[str, Any], fields: Sequence[str]) -> str:
    """Return the value of the one field of `fields` that is present."""
    present = [field for field in fields if row.get(field) not in (None, "")]
    if len(present) != 1:
        found = " and ".join(present) if present else "none"
        raise _WrongRow(f"exactly one of {', '.join(fields)} must be there, found {found}")
    value = row[present[0]]
    if not isinstance(value, str):
        raise _WrongRow(f"{present[0]} is no text: {value!r:.80}")
    return value
