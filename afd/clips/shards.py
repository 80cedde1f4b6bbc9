"""Shards: many clips in two files, an uncompressed tar of mp4 files and a parquet table.

    clips.tar      one member a distinct video, named by the sha256 of its bytes
    clips.parquet  one row a clip: prompt_id, prompt, seed, member, offset, num_bytes, sha256,
                   frames_sha256, num_frames, fps, width, height, and where it came from

Readers use the table (offset and length), never the tar's own headers, and compare each clip with
its sha256 before they decode it. Equal rows give equal files.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pandas as pd
import torch

from afd.store import StoreError, damage_cure
from afd.video.canonical import CanonicalFormat
from afd.video.content import Content
from afd.video.decode import ClipError, Frames, TimedFrame, open_clip

TAR = "clips.tar"
TABLE = "clips.parquet"
COLUMNS = (
    "prompt_id", "prompt", "seed", "member", "offset", "num_bytes", "sha256", "frames_sha256",
    "num_frames", "fps", "width", "height",
)  # fmt: skip


DECODED_COLUMNS = {"frames_sha256", "num_frames", "fps", "width", "height"}  # known from decoding


class ShardError(StoreError):
    """A damaged shard; the text names file, member and cure."""


def write_shard(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write clips.tar and clips.parquet from rows with prompt_id, prompt, seed and bytes or path.

    Other keys of a row (plain values: its provenance) become columns behind the known ones.
    Every clip is decoded first: a shard holds sound clips only. (The file of a row with its sha256
    and all of `DECODED_COLUMNS` is only compared.) Rows of equal bytes share a member.
    Memory holds one clip and the table. Errors: ShardError naming the row for a missing key or an
    unsound clip; nothing is written then.
    """
    table: list[dict[str, Any]] = []
    places: dict[str, tuple[int, int]] = {}
    unfinished = folder / f".{TAR}.tmp"
    try:
        with (
            unfinished.open("wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for number, row in enumerate(rows):
                given = row if "bytes" in row or "path" not in row else row | {"bytes": ...}
                if missing := {"prompt_id", "prompt", "seed", "bytes"} - given.keys():
                    raise ShardError(f"row {number}: {', '.join(sorted(missing))} missing")
                data = row["bytes"] if "bytes" in row else Path(row["path"]).read_bytes()
                about = _about(number, row, data)
                digest = about["sha256"]
                if digest not in places:
                    member = tarfile.TarInfo(about["member"])
                    member.size = len(data)
                    places[digest] = (file.tell() + tarfile.BLOCKSIZE, len(data))
                    tar.addfile(member, io.BytesIO(data))
                offset, num_bytes = places[digest]
                table.append(about | {"offset": offset, "num_bytes": num_bytes})
        unfinished.rename(folder / TAR)
    finally:
        unfinished.unlink(missing_ok=True)
    others = dict.fromkeys(name for row in table for name in row if name not in COLUMNS)
    pd.DataFrame(table, columns=[*COLUMNS, *others]).to_parquet(folder / TABLE, index=False)


def _about(number: int, row: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Return the table's row of one clip, without its place in the tar."""
    digest = hashlib.sha256(data).hexdigest()
    known = {key: value for key, value in row.items() if key not in {"bytes", "path"}} | {
        "seed": int(row["seed"]),
        "member": f"{digest[:32]}.mp4",
        "sha256": digest,
    }
    if row.keys() >= DECODED_COLUMNS and row.get("sha256") == digest:
        return known
    try:
        with open_clip(data) as clip:
            content = Content()
            for decoded in clip.frames():
                content.add(decoded.frame)
    except ClipError as error:
        raise ShardError(f"row {number}, prompt {row['prompt'][:80]!r}: {error}") from error
    return known | {
        "frames_sha256": content.sha256,
        "num_frames": clip.num_frames,
        "fps": float(clip.header.fps),
        "width": clip.header.width,
        "height": clip.header.height,
    }


def read_table(folder: Path) -> pd.DataFrame:
    """Return the table of a shard, in the order in which it was written."""
    path = folder / TABLE
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise ShardError(f"{path}: cannot be read ({error}); {damage_cure(folder)}") from error
    if missing := set(COLUMNS) - set(table.columns):
        raise ShardError(f"{path}: columns {sorted(missing)} missing; {damage_cure(folder)}")
    return table


def read_shard(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a shard: all columns of its table and `bytes`, verified by sha256.

    The inverse of `write_shard`. Errors: ShardError naming shard and member.
    """
    return list(iterate(folder))


def iterate(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of `read_shard`, with one in memory at a time."""
    rows = cast(list[dict[str, Any]], read_table(folder).to_dict("records"))
    path = folder / TAR
    try:
        with path.open("rb") as tar:
            for row in rows:
                yield row | {"bytes": _member(tar, row, folder)}
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error}); {damage_cure(folder)}") from error


def read_row(folder: Path, row: dict[str, Any]) -> bytes:
    """Return the verified video of one row of the table. Errors: ShardError."""
    path = folder / TAR
    try:
        with path.open("rb") as tar:
            return _member(tar, row, folder)
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error}); {damage_cure(folder)}") from error


def _member(tar: BinaryIO, row: dict[str, Any], folder: Path) -> bytes:
    tar.seek(int(row["offset"]))
    data = tar.read(int(row["num_bytes"]))
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise ShardError(
            f"{folder / TAR}, member {row['member']} (prompt {row['prompt'][:80]!r}): its "
            f"bytes are not those that were stored; {damage_cure(folder)}"
        )
    return data


def read_videos(
    folder: Path,
    canon: CanonicalFormat,
    view: Callable[[Iterable[TimedFrame], CanonicalFormat], Frames],
    chosen: Sequence[int] | None = None,
) -> tuple[torch.Tensor, pd.DataFrame]:
    """Return clips, uint8 [N, F, 3, H, W], and the table in the same order; `chosen` selects rows.

    `view` is `canonical` for discriminators, `conform` for people and metrics.
    Errors: ShardError naming shard and member when bytes are corrupt or do not give such a clip.
    """
    table = read_table(folder)
    table = table if chosen is None else table.iloc[list(chosen)]
    rows = cast(list[dict[str, Any]], table.to_dict("records"))
    clips = np.empty((len(table), canon.num_frames, 3, *canon.sides), np.uint8)
    for clip, row in zip(clips, rows, strict=True):
        data = read_row(folder, row)
        try:
            with open_clip(data) as opened:
                clip[:] = view(opened.frames(), canon).transpose(0, 3, 1, 2)
        except ClipError as error:
            raise ShardError(
                f"{folder / TAR}, member {row['member']} (prompt {row['prompt'][:80]!r}): {error}; "
                f"{damage_cure(folder)}"
            ) from error
    return torch.from_numpy(clips), table


def prompt_places(table: pd.DataFrame, prompts: Sequence[str]) -> list[int]:
    """Return the index of each row's prompt in the round; a refused prompt has no row.

    Raises ValueError if the table has other prompts.
    """
    found = table["place"].tolist() if "place" in table else list(range(len(prompts)))
    if [prompts[place] for place in found if place < len(prompts)] != table["prompt"].tolist():
        raise ValueError("the teacher clips are about other prompts")
    return found
