"""Quarantine of unusable deliveries: each file with its reason, inspected again on request.

    <store>/quarantine/<sha256[:32]>.bin     the bytes as delivered; no player opens that suffix
    <store>/quarantine/<sha256[:32]>.json    the reason, the first bytes and the provenance

A delivery stays as it came. A page or a message in place of a video may repeat the key or hold a
signed URL: its owner alone can read the file, and only its first words leave it, without URLs and
secrets.

The note is written before the file, so each file has a note. Nothing is deleted: a file that proves
to be sound moves to the library, and its note to `quarantine/restored/`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from afd.masking import clean
from afd.store import Store, StoreError, disk_errors, sync_folder, write_json
from afd.video.mp4_boxes import beginning

FIRST_BYTES = 4096  # enough to recognise HTML, JSON or a playlist, and to mask a key in it
MAX_WORDS = 80  # characters of a text's beginning that a message shows
# First bytes, in lower case -> media type; a film of another brand is video/mp4 by its ftyp box.
TYPES: tuple[tuple[bytes, str], ...] = (
    (b"<!doctype html", "text/html"),
    (b"<html", "text/html"),
    (b"<", "text/xml"),
    (b"{", "application/json"),
    (b"[", "application/json"),
    (b"#extm3u", "application/vnd.apple.mpegurl"),
    (b"gif8", "image/gif"),
    (b"\x89png", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"pk\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
    (b"\0\0\1\xba", "video/mpeg"),
    (b"riff", "video/x-msvideo"),
)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One file in quarantine."""

    path: Path
    sha256: str
    num_bytes: int
    reason: str
    first_bytes: str  # of a text its first words, without URLs and secrets
    provenance: tuple[dict[str, Any], ...]  # of each order that these bytes were delivered for
    put_at: str
    type: str = "unknown"  # by the first bytes; notes of before 2026-12 have none

    @property
    def description(self) -> str:
        """Type, size, sha256 and beginning of the delivery, as a message shows them."""
        return (
            f"{self.type}, {self.num_bytes} bytes, sha256 {self.sha256}, begins {self.first_bytes}"
        )


def folder(store: Store) -> Path:
    """Return the quarantine's folder."""
    return store.root / "quarantine"


def put(
    store: Store,
    file: Path,
    reason: str,
    provenance: dict[str, Any],
    secrets: tuple[str, ...] = (),
) -> Entry:
    """Move `file` into quarantine; equal bytes are stored once, with the provenance of all orders.

    `secrets` are masked in the note. Errors: StoreError if the disk refuses; the file then stays at
    its place.
    """
    place = folder(store)
    with disk_errors(store.root):
        place.mkdir(parents=True, exist_ok=True)
        digest, num_bytes, head = _looked_at(file)
        if not _type(head).startswith("video/"):
            file.chmod(0o600)
        path = place / f"{digest[:32]}.bin"
        before = read(path.with_suffix(".json"))
        earlier = before.provenance if before else ()
        entry = Entry(
            path=path,
            sha256=digest,
            num_bytes=num_bytes,
            reason=reason,
            first_bytes=_first_words(head, secrets),
            type=_type(head),
            provenance=earlier if provenance in earlier else (*earlier, provenance),
            put_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(path.with_suffix(".json"), _noted(entry))
        _move(file, path)
    return entry


def entries(store: Store) -> Iterator[Entry]:
    """Yield all entries by name. Raises StoreError for a note that cannot be read."""
    for note in sorted(folder(store).glob("*.json")):
        entry = read(note)
        if entry and entry.path.exists():  # a kill between note and file leaves the note alone
            yield entry


def revalidate(
    store: Store,
    problem_of: Callable[[Entry], str | None],
    restore: Callable[[Entry], None],
) -> tuple[list[Entry], list[Entry]]:
    """Inspect all entries again, after a policy has changed; return (restored, still unsound).

    `problem_of` returns the reason or None; `restore` moves the file of a sound entry into the
    library. A kill in between leaves the entry in quarantine or in the library.
    """
    restored: list[Entry] = []
    remaining: list[Entry] = []
    for entry in list(entries(store)):
        if _looked_at(entry.path)[0] != entry.sha256:
            raise StoreError(
                f"{entry.path}: its bytes are not those that were put aside; restore it from a "
                f"backup, or move it and its note {entry.path.with_suffix('.json').name} away"
            )
        reason = problem_of(entry)
        if reason is not None:
            if reason != entry.reason:
                write_json(entry.path.with_suffix(".json"), _noted(entry) | {"reason": reason})
            remaining.append(entry)
            continue
        entry.path.chmod(entry.path.with_suffix(".json").stat().st_mode)
        restore(entry)
        if entry.path.exists():
            raise StoreError(f"{entry.path}: judged sound, but not taken out of quarantine")
        done = folder(store) / "restored"
        done.mkdir(exist_ok=True)
        note = entry.path.with_suffix(".json")
        note.rename(done / note.name)
        sync_folder(done)
        restored.append(entry)
    return restored, remaining


def _noted(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name != "path"}


def read(note: Path) -> Entry | None:
    """Return an entry from its note, or None without a note. Raises StoreError if unreadable."""
    try:
        values = json.loads(note.read_bytes())
        values["provenance"] = tuple(values["provenance"])
        return Entry(path=note.with_suffix(".bin"), **values)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{note}: cannot be read ({error}); the file beside it is kept; restore the note from "
            "a backup or move both away"
        ) from error


def _type(head: bytes) -> str:
    if head[4:8] in (b"ftyp", b"moov", b"mdat"):
        return "video/mp4"
    start = head.lstrip().lower()
    known = next((name for mark, name in TYPES if start.startswith(mark)), None)
    return known or ("text/plain" if _text(head) else "application/octet-stream")


def _first_words(head: bytes, secrets: tuple[str, ...]) -> str:
    """Return a text's first words without URLs and secrets; of other bytes the format's mark."""
    text = _text(head)
    return beginning(head) if text is None else repr(clean(text, secrets, MAX_WORDS))


def _text(head: bytes) -> str | None:
    """Return the beginning of a text in UTF-8 or UTF-16, or None for other bytes."""
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    text = head[: FIRST_BYTES // 2 * 2].decode(encoding, "ignore")
    is_text = bool(text) and "\0" not in text and "\ufffd" not in text
    lost = len(head) - len(text.encode(encoding, "ignore"))
    return text if is_text and abs(lost) <= 4 else None


def _looked_at(file: Path) -> tuple[str, int, bytes]:
    digest, num_bytes, first = hashlib.sha256(), 0, b""
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            first = first or block[:FIRST_BYTES]
            num_bytes += len(block)
            digest.update(block)
    return digest.hexdigest(), num_bytes, first


def _move(file: Path, path: Path) -> None:
    """By renaming; from another disk by a copy that is whole before the original goes."""
    if path.exists():
        file.unlink()  # the same bytes stand here already
        return
    try:
        file.rename(path)
    except OSError:
        if not file.exists():
            raise
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            shutil.copyfile(file, unfinished)
            with unfinished.open("rb") as copied:
                os.fsync(copied.fileno())
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
        file.unlink()
    sync_folder(path.parent)
