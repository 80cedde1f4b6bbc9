"""Lookup of requested clips in the library and in the shards that a clone pulled.

The first attempt with a clip fulfils a request. The lookup sends nothing to a vendor, so a campaign
replays from its store alone when the teacher is gone.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from afd.clips.library import StoredClip, clip_paths
from afd.clips.requests import ClipRequest, TeacherSpec, order_key
from afd.clips.shard_tables import read_columns
from afd.store import Store

_READ = ("num_frames", "fps", "width", "height")  # a shard copies these instead of decoding
MAX_ATTEMPTS = 11  # num_retries is at most 10


@dataclass(frozen=True)
class FoundClip:
    """One clip: a file of the library, or a row of a shard."""

    key: str
    file: Path | None
    shard: Path | None

    def row(self) -> dict[str, Any]:
        """Return a row for the round's shard: bytes or path, `key`, `provenance`, `seed`."""
        if self.file is not None:
            clip = StoredClip(self.key, self.file)
            clip.read()  # raises StoreError where its bytes have changed
            about = clip.provenance
            known = {name: about[name] for name in _READ if name in about}
            if "content_sha256" in about:
                known["frames_sha256"] = about["content_sha256"]
            return known | {
                "path": self.file,
                "seed": about.get("returned_seed") or about.get("seed") or 0,
                "key": self.key,
                "provenance": json.dumps(about, allow_nan=False, ensure_ascii=False),
            }
        row = read_shard_row(Path(str(self.shard)), "key", self.key)
        return {name: row[name] for name in ("bytes", "seed", "key", "provenance")}


def find_clips(
    store: Store, spec: TeacherSpec, requests: Sequence[ClipRequest]
) -> dict[str, FoundClip]:
    """Return request_id -> clip for each request that has a clip."""
    stored = clip_paths(store)
    in_shards: dict[str, Path] | None = None
    found: dict[str, FoundClip] = {}
    for request in requests:
        key = next((key for key in _keys(request, spec) if key in stored), None)
        if key is not None:
            found[request.request_id] = FoundClip(key, stored[key], None)
            continue
        in_shards = shards_by_key(store) if in_shards is None else in_shards
        key = next((key for key in _keys(request, spec) if key in in_shards), None)
        if key is not None:
            found[request.request_id] = FoundClip(key, None, in_shards[key])
    return found


def _keys(request: ClipRequest, spec: TeacherSpec) -> Iterator[str]:
    """Return the keys of all possible attempts of a request; takes 30 us.

    The ledger may have fewer attempts than the library has clips: in a clone it belongs to another
    store, and after a restored backup it is older.
    """
    return (order_key(request.request_id, n, seeded=spec.seeded) for n in range(MAX_ATTEMPTS))


def shards_by_key(store: Store, column: str = "key") -> dict[Any, Path]:
    """Return order key -> the shard with its clip; all clips of shards were paid.

    `column` may be `seed`, which identifies the clips of local teachers.

    Raises StoreError for a shard that cannot be read: it must be restored first, since the paid
    clips in it are unknown.
    """
    made = [artifact.ref for artifact in store.all() if artifact.manifest.kind == "teacher_clips"]
    folders = [store.load(ref).path for ref in made]
    folders += sorted(table.parent for table in (store.root / "packs").glob("[!.]*/clips.parquet"))
    found: dict[Any, Path] = {}
    for folder in folders:
        values = (row.get(column) for row in read_columns(folder, column))
        found |= {value: folder for value in values if value}
    return found


def read_shard_row(folder: Path, column: str, value: object) -> dict[str, Any]:
    """Return the row whose `column` is `value`, with its verified bytes."""
    from afd.clips.shards import read_row, read_table  # imports torch: paid where it is needed

    table = read_table(folder)
    rows = cast("Any", table[table[column] == value])
    row = cast("dict[str, Any]", rows.iloc[0].to_dict())
    return row | {"bytes": read_row(folder, row)}
