"""Quarantine of unusable deliveries: each file with its reason, inspected again on request.

    <store>/quarantine/<sha256[:32]>.bin     the bytes as delivered; no player opens that suffix
    <store>/quarantine/<sha256[:32]>.json    the reason, the first bytes and the provenance

Text is not kept (afd/clips/non_video.py): a page or a message in place of a video may repeat the
key or a signed URL. One line with the text's size and sha256 replaces it.

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

from afd.clips import non_video
from afd.store import Store, StoreError, disk_errors, sync_folder, write_atomic, write_json
from afd.video.mp4_boxes import beginning

FIRST_BYTES = 64  # enough to recognise HTML, JSON or a playlist
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One file in quarantine."""

    path: Path
    sha256: str
    num_bytes: int
    reason: str
    first_bytes: str  # without secrets (afd.video.mp4_boxes.beginning)
    provenance: tuple[dict[str, Any], ...]  # of each order that these bytes were delivered for
    put_at: str


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

    A file that holds one of `secrets` and no video is replaced by one line. Errors: StoreError if
    the disk refuses; the file then stays at its place.
    """
    place = folder(store)
    with disk_errors(store.root):
        place.mkdir(parents=True, exist_ok=True)
        first_bytes = beginning(_looked_at(file)[2])
        _without_words(file, secrets)
        digest, num_bytes, _ = _looked_at(file)
        path = place / f"{digest[:32]}.bin"
        before = read(path.with_suffix(".json"))
        earlier = before.provenance if before else ()
        entry = Entry(
            path=path,
            sha256=digest,
            num_bytes=num_bytes,
            reason=reason,
            first_bytes=first_bytes,
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


def _without_words(file: Path, secrets: tuple[str, ...]) -> None:
    """Replace text by one line and extract a video from text; leave other files unchanged."""
    if non_video.is_text_only(non_video.file_blocks(file), secrets):
        digest, num_bytes, _ = _looked_at(file)
        line = f"{num_bytes} bytes of text, sha256 {digest}: not kept, they may hold a secret\n"
        # No text itself: put aside again it stays.
        write_atomic(file, non_video.video_in_base64(file) or b"\0" + line.encode())
    elif start := non_video.video_offset(file):
        unfinished = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        with file.open("rb") as whole, unfinished.open("wb") as film:
            whole.seek(start)
            shutil.copyfileobj(whole, film, _BLOCK)
            film.flush()
            os.fsync(film.fileno())
        unfinished.rename(file)


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
