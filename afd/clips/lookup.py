"""Which clip answers which want: out of the vault, or out of the shards that a clone pulled.

A want is answered by the first of its attempts that has a clip. Nothing is asked of a vendor here,
so a campaign replays from its store alone when the teacher is gone.
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

_READ = ("num_frames", "fps", "width", "height")  # what a shard need not decode for again
MAX_ATTEMPTS = 11  # num_retries is at most 10


@dataclass(frozen=True)
class FoundClip:
    """One clip and what is known of it: a file of the vault, or a row of a shard."""

    key: str
    file: Path | None
    shard: Path | None

    def row(self) -> dict[str, Any]:
        """As a row of the round's shard: its bytes or its path, `key`, `provenance`, `seed`."""
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
    store: Store, asked: TeacherSpec, wants: Sequence[ClipRequest]
) -> dict[str, FoundClip]:
    """slot -> its clip, of every want that has one."""
    in_vault = clip_paths(store)
    in_shards: dict[str, Path] | None = None
    found: dict[str, FoundClip] = {}
    for want in wants:
        key = next((key for key in _keys(want, asked) if key in in_vault), None)
        if key is not None:
            found[want.slot] = FoundClip(key, in_vault[key], None)
            continue
        in_shards = shards_by_key(store) if in_shards is None else in_shards
        key = next((key for key in _keys(want, asked) if key in in_shards), None)
        if key is not None:
            found[want.slot] = FoundClip(key, None, in_shards[key])
    return found


def _keys(want: ClipRequest, asked: TeacherSpec) -> Iterator[str]:
    """Of every attempt that there can be: a ledger may know fewer than the clips that stand here.

    It is another one's in a clone, and an older one where a backup was put back. 30 us a want.
    """
    return (order_key(want.slot, n, seeded=asked.seeded) for n in range(MAX_ATTEMPTS))


def shards_by_key(store: Store, column: str = "key") -> dict[Any, Path]:
    """Request key -> the shard that holds its clip: what stands in a shard was paid.

    `column` may be `seed`: shards of clips that were filmed here name their requests by it.

    Raises StoreError for a shard that cannot be read: it is restored first, for nobody knows what
    of it was paid.
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
    """The row whose `column` is `value`, with its bytes, verified."""
    from afd.clips.shards import read_row, read_table  # imports torch: paid where it is needed

    table = read_table(folder)
    rows = cast("Any", table[table[column] == value])
    row = cast("dict[str, Any]", rows.iloc[0].to_dict())
    return row | {"bytes": read_row(folder, row)}
