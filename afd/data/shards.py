"""A shard: many clips in two files, an uncompressed tar of mp4 and a parquet table about them.

    clips.tar      one member a distinct video, named by the sha256 of its bytes
    clips.parquet  one row a clip: prompt_id, prompt, seed, member, offset, num_bytes, sha256,
                   frames_sha256, num_frames, fps, width, height

Readers go by the table (offset and length), never by the tar's own headers, and every byte is held
against its sha256 before anything is decoded. Equal rows give equal files.
"""

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from afd.data.clips import ClipError, canonical, decode, frames_sha256
from afd.store import StoreError

TAR = "clips.tar"
TABLE = "clips.parquet"
COLUMNS = (
    "prompt_id", "prompt", "seed", "member", "offset", "num_bytes", "sha256", "frames_sha256",
    "num_frames", "fps", "width", "height",
)  # fmt: skip


class ShardError(StoreError):
    """A shard that cannot be believed: which file, which member, what to do."""


def write_shard(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write clips.tar and clips.parquet from rows with prompt_id, prompt, seed and bytes.

    Every clip is decoded first: a shard holds sound clips only. Rows of equal bytes share a member.
    Errors: ShardError naming the row for a missing key or an unsound clip; nothing is written then.
    """
    table: list[dict[str, Any]] = []
    places: dict[str, tuple[int, int]] = {}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, row in enumerate(rows):
            if missing := {"prompt_id", "prompt", "seed", "bytes"} - row.keys():
                raise ShardError(f"row {number}: {', '.join(sorted(missing))} missing")
            data = cast(bytes, row["bytes"])
            about = _about(number, row, data)
            digest = about["sha256"]
            if digest not in places:
                member = tarfile.TarInfo(about["member"])
                member.size = len(data)
                places[digest] = (buffer.tell() + tarfile.BLOCKSIZE, len(data))
                tar.addfile(member, io.BytesIO(data))
            offset, num_bytes = places[digest]
            table.append(about | {"offset": offset, "num_bytes": num_bytes})
    (folder / TAR).write_bytes(buffer.getbuffer())
    pd.DataFrame(table, columns=list(COLUMNS)).to_parquet(folder / TABLE, index=False)


def _about(number: int, row: dict[str, Any], data: bytes) -> dict[str, Any]:
    """The table's row of one clip, but for its place in the tar."""
    try:
        clip = decode(data)
    except ClipError as error:
        raise ShardError(f"row {number}, prompt {row['prompt'][:80]!r}: {error}") from error
    num_frames, height, width, _ = clip.frames.shape
    digest = hashlib.sha256(data).hexdigest()
    return {
        "prompt_id": row["prompt_id"],
        "prompt": row["prompt"],
        "seed": int(row["seed"]),
        "member": f"{digest[:32]}.mp4",
        "sha256": digest,
        "frames_sha256": frames_sha256(clip.frames),
        "num_frames": num_frames,
        "fps": float(clip.fps),
        "width": width,
        "height": height,
    }


def read_table(folder: Path) -> pd.DataFrame:
    """The table of a shard, in the order in which it was written."""
    path = folder / TABLE
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ShardError(f"{path}: cannot be read ({error}); {_cure(folder)}") from error
    if missing := set(COLUMNS) - set(table.columns):
        raise ShardError(f"{path}: columns {sorted(missing)} missing; {_cure(folder)}")
    return table


def read_shard(folder: Path) -> list[dict[str, Any]]:
    """The rows of a shard: all columns of its table and `bytes`, verified by sha256.

    The inverse of `write_shard`. Errors: ShardError naming shard and member.
    """
    rows = cast(list[dict[str, Any]], read_table(folder).to_dict("records"))
    path = folder / TAR
    try:
        with path.open("rb") as tar:
            for row in rows:
                tar.seek(row["offset"])
                row["bytes"] = tar.read(row["num_bytes"])
                if hashlib.sha256(row["bytes"]).hexdigest() != row["sha256"]:
                    raise ShardError(
                        f"{path}, member {row['member']} (prompt {row['prompt'][:80]!r}): its "
                        f"bytes are not those that were stored; {_cure(folder)}"
                    )
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error}); {_cure(folder)}") from error
    return rows


def read_clips(folder: Path, frame_size: int, num_frames: int) -> tuple[torch.Tensor, pd.DataFrame]:
    """Canonical clips float32 [N, F, 3, H, W] in [0, 1] and the table, in one order.

    Errors: ShardError naming shard and member when bytes are corrupt or do not give such a clip.
    """
    rows = read_shard(folder)
    clips = np.empty((len(rows), num_frames, 3, frame_size, frame_size), np.float32)
    for clip, row in zip(clips, rows, strict=True):
        try:
            clip[:] = canonical(decode(row["bytes"]).frames, frame_size, num_frames)
        except ClipError as error:
            raise ShardError(
                f"{folder / TAR}, member {row['member']} (prompt {row['prompt'][:80]!r}): {error}; "
                f"{_cure(folder)}"
            ) from error
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return torch.from_numpy(clips), table


def _cure(folder: Path) -> str:
    return (
        f"restore it with `dvc pull`, or move {folder} away and run the same command again to make "
        "it anew (teacher videos in clips/ are not paid again)"
    )
