"""Packs: the library as a few large files, each a tar shard with a table, for DVC and copying.

    <store>/packs/<digest of its keys[:16]>/clips.tar, clips.parquet

A hundred thousand small files are slow for DVC, for network disks and for people. A pack holds
complete clips with their provenance, is written completely or not at all, and never changes: later
clips go into the next pack. The library keeps its files; nothing is deleted.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afd.clips.library import StoredClip, add_file, clip_paths
from afd.clips.lookup import shards_by_key
from afd.clips.shard_tables import read_columns
from afd.clips.shards import TABLE, TAR, iterate, write_shard
from afd.store import Store, StoreError, disk_errors, sync_folder

CLIPS_PER_SHARD = 1000  # 2 GB of 5 s at 720p
WORTH_PACKING = 50_000  # clips: DVC takes minutes to look at more files than that
FACTS = {
    "content_sha256": "frames_sha256",
    "num_frames": "num_frames",
    "fps": "fps",
    "width": "width",
    "height": "height",
}  # field of a clip's provenance -> column of a table


@dataclass(frozen=True)
class PackResult:
    """Result of `pack`."""

    folders: tuple[Path, ...]  # written by this call
    num_clips: int
    num_before: int  # clips that were in packs before


def pack_folders(store: Store) -> list[Path]:
    """Return the folders of all finished packs."""
    return sorted(table.parent for table in (store.root / "packs").glob(f"[!.]*/{TABLE}"))


def worth_packing(num_clips: int) -> bool:
    """Return True if the library is large enough for packs to pay off."""
    return num_clips >= WORTH_PACKING


def pack(store: Store, clips_per_shard: int = CLIPS_PER_SHARD) -> PackResult:
    """Write each clip of the library that is in no pack into new packs, in the order of keys.

    Memory holds one clip and one table. A kill leaves only finished packs visible.
    Errors: StoreError with the clip that has changed or the disk's reason.
    """
    before: set[str] = set()
    for folder in pack_folders(store):
        before |= {row["key"] for row in read_columns(folder, "key")}
    missing = [(key, path) for key, path in sorted(clip_paths(store).items()) if key not in before]
    made: list[Path] = []
    with disk_errors(store.root):
        for start in range(0, len(missing), clips_per_shard):
            made.append(_pack_one(store, missing[start : start + clips_per_shard]))
    return PackResult(tuple(made), len(missing), len(before))


def unpack(store: Store) -> int:
    """Copy clips that only packs and shards of rounds have into the library; return their number.

    Each clip is compared with its sha256 first. Its provenance is written too.
    """
    there, count = set(clip_paths(store)), 0
    incoming = store.root / f".unpacking.{os.getpid()}.mp4"
    with disk_errors(store.root):
        for folder in folders_with_keys(store):
            for row in iterate(folder):
                if row["key"] not in there:
                    incoming.write_bytes(row["bytes"])
                    add_file(store, row["key"], incoming, json.loads(row["provenance"]))
                    there.add(row["key"])
                    count += 1
    return count


def folders_with_keys(store: Store) -> list[Path]:
    """Return the packs and shards of rounds whose rows have order keys."""
    return sorted(set(shards_by_key(store).values()))


def _pack_one(store: Store, clips: list[tuple[str, Path]]) -> Path:
    name = hashlib.sha256("\n".join(key for key, _ in clips).encode()).hexdigest()[:16]
    folder = store.root / "packs" / name
    unfinished = folder.with_name(f".{name}.{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        write_shard(unfinished, _rows(clips))
        for file in (TAR, TABLE):
            with (unfinished / file).open("rb") as written:
                os.fsync(written.fileno())
        unfinished.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _rows(clips: list[tuple[str, Path]]) -> Iterator[dict[str, Any]]:
    for key, path in clips:
        note = StoredClip(key, path).provenance
        if not note:  # a pack never changes, so an error in it would stay
            raise StoreError(
                f"{path}: its note is missing. `afd harvest verify --mend` writes it anew from "
                "what packs, shards and the ledger know. Finished packs are kept"
            )
        facts = {column: note[fact] for fact, column in FACTS.items() if fact in note}
        seed = note.get("returned_seed") or note.get("seed") or 0
        yield {
            "prompt_id": str(note.get("prompt_id", "")),
            "prompt": str(note.get("prompt", "")),
            "seed": int(seed),
            "key": key,
            "provenance": json.dumps(note, ensure_ascii=False),
            "bytes": _read(path),
            **facts,
            "sha256": note.get("sha256", ""),
        }


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    if not hashlib.sha256(data).hexdigest().startswith(path.stem.partition(".")[2]):
        raise StoreError(
            f"{path}: a paid teacher video has changed on disk; restore it from a backup. Finished "
            "packs are kept"
        )
    return data
