"""Inputs of a discriminator: teacher clips and rollouts on one path (afd/video/canonical.py).

Both sides start as finished videos, take the same steps and pass through the student's codec, so
its blur reveals no side. Clips are held as bytes, .1 GB each at 480p, and as floats only chunk by
chunk. The store's cache holds the result by chunk: replayed rounds, and update after fit, read it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from afd.artifacts import Artifact
from afd.clips.shards import read_table, read_videos
from afd.runtime.cache import cached
from afd.signals import show_life
from afd.store import Store
from afd.students.checkpoint import codec_sha256, load_codec
from afd.students.codec import Codec
from afd.video.canonical import CanonicalFormat, as_delivered, canonical
from afd.video.rhythm import hold_for

REVISION = 1  # raise it when this path changes its pixels
BATCH = 128  # clips decoded at a time, where they are small
PART_BYTES = 2**30  # of floats at a time: 2 clips of 81 frames of 480x832, which are .39 GB each
HOLD = "picture_hold"  # of a discriminator's summary: frames that most of its pictures are shown
# Of at most 128 clips each: .8 GB of pocket clips; .1 TB at 480p, where an entry is two clips and a
# fit reads 3 rounds of 64 + 192 and the first one again: with fewer entries it would find none.
NUM_ENTRIES = 512


def load_teacher_clips(
    clips: Artifact, rollouts: Artifact, store: Store, canon: CanonicalFormat
) -> tuple[Tensor, pd.DataFrame]:
    """Load teacher clips uint8 [P, F, 3, H, W] and their table.

    `rollouts` name the student whose codec they pass through.
    """
    table = read_table(clips.path)
    holds = holds_of(table, canon)

    def make(rows: range, _: Codec) -> Tensor:
        made = torch.empty((len(rows), canon.num_frames, 3, *canon.sides), dtype=torch.uint8)
        for hold in {holds[row] for row in rows}:
            alike = [row for row in rows if holds[row] == hold]
            one_way = replace(canon, hold=hold)
            pictures = read_videos(clips.path, one_way, canonical, alike)[0]
            made[[row - rows.start for row in alike]] = pictures
        return made

    return _through_codec(clips, holds, make, rollouts, store, canon), table


def load_rollouts(
    rollouts: Artifact, store: Store, canon: CanonicalFormat, holds: Sequence[int] | None = None
) -> Tensor:
    """Load rollouts uint8 [N, F, 3, H, W], in the order of their table.

    `holds` has for each the frames that a picture is shown: as in the teacher's clip beside it.
    """
    latents = load_file(rollouts.file("rollouts.safetensors"))["latents"]
    held = [canon.hold] * len(latents) if holds is None else list(holds)

    def make(rows: range, codec: Codec) -> Tensor:
        made = as_bytes(codec.decode(latents[rows.start : rows.stop]))
        pictures = made.permute(0, 1, 3, 4, 2).numpy()
        filmed = [
            canonical(as_delivered(clip, canon), replace(canon, hold=held[row]))
            for row, clip in zip(rows, pictures, strict=True)
        ]
        return torch.from_numpy(np.stack(filmed)).movedim(4, 2)

    return _through_codec(rollouts, held, make, rollouts, store, canon)


def holds_of(table: pd.DataFrame, canon: CanonicalFormat) -> list[int]:
    """Return for each of a table's clips how long it and its rollouts show a picture."""
    return [hold_for(rate, canon.fps, canon.num_frames) for rate in table["fps"].tolist()]


def chunk_size(shape: Sequence[int]) -> int:
    """Return the number of clips of shape [F, 3, H, W] that are floats in memory at once."""
    return max(1, min(BATCH, PART_BYTES // (4 * math.prod(shape))))


def in_chunks(clips: Tensor) -> Iterator[Tensor]:
    """Yield clips uint8 [N, F, 3, H, W] as floats in [0, 1], `chunk_size` at once."""
    for part in clips.split(chunk_size(clips.shape[1:])):
        yield part.float() / 255
        show_life()


def in_levels(clips: Tensor) -> Tensor:
    """Return clips in [0, 1] rounded to the levels 0 to 255, as floats: NaN stays NaN."""
    return (clips * 255).round()


def as_bytes(clips: Tensor) -> Tensor:
    """Return clips in [0, 1] as 8 bits a channel, rounded to nearest."""
    return in_levels(clips).to(torch.uint8)


def _through_codec(
    artifact: Artifact,
    holds: Sequence[int],
    make: Callable[[range, Codec], Tensor],
    rollouts: Artifact,
    store: Store,
    canon: CanonicalFormat,
) -> Tensor:
    """Return uint8 clips after the codec, chunk by chunk, from the cache where it has them."""
    student = store.path(rollouts.manifest.made_from["student"])
    shape = (canon.num_frames, 3, *canon.sides)
    identity = {
        "artifact": artifact.manifest.fingerprint,
        "codec": codec_sha256(student),
        "canonical": canon.params,
        "sizes": [canon.num_frames, canon.frame_size, canon.fps],
        "revision": REVISION,
    }
    codec = cache(lambda: load_codec(student))  # not loaded where the cache has every chunk

    def made(rows: range) -> dict[str, Tensor]:
        clips = make(rows, codec()).float() / 255
        return {"clips": as_bytes(codec().decode(codec().encode(clips)))}

    seen = torch.empty((len(holds), *shape), dtype=torch.uint8)
    for start in range(0, len(holds), chunk_size(shape)):
        rows = range(start, min(start + chunk_size(shape), len(holds)))
        part = identity | {"rows": [rows.start, rows.stop]}
        if any(hold != 1 for hold in holds[rows.start : rows.stop]):
            part |= {"holds": list(holds[rows.start : rows.stop])}
        found = cached(store, "seen", part, partial(made, rows), NUM_ENTRIES)
        seen[rows.start : rows.stop] = found["clips"]
        show_life()
    return seen
