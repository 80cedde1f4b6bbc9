"""What a discriminator sees: both sides' clips through the one path (afd/video/canonical.py).

Teacher clips and rollouts meet here as finished videos, take the same steps, and pass through the
student's codec, so that what it blurs gives nobody away. Clips are kept as bytes, .1 GB each at
480p, and are floats in parts alone. What came out is kept in the store's cache, part by part:
replayed rounds, and update after fit, only read it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from afd.artifacts import Artifact
from afd.clips.shards import read_table, read_videos
from afd.runtime.cache import kept
from afd.signals import show_life
from afd.store import Store
from afd.students.checkpoint import codec_sha256, load_codec
from afd.students.codec import Codec
from afd.video.canonical import CanonicalFormat, as_delivered, canonical

REVISION = 1  # raise it when this path changes its pictures
BATCH = 128  # clips decoded at a time, where they are small
PART_BYTES = 2**30  # of floats at a time: 2 clips of 81 frames of 480x832, which are .39 GB each
# Of at most 128 clips each: .8 GB of pocket clips; .1 TB at 480p, where an entry is two clips and a
# fit reads 3 rounds of 64 + 192 and the first one again: fewer, and it would never find any.
NUM_ENTRIES = 512


def seen_teacher(
    clips: Artifact, rollouts: Artifact, store: Store, canon: CanonicalFormat
) -> tuple[Tensor, pd.DataFrame]:
    """Teacher clips uint8 [P, F, 3, H, W] and their table.

    `rollouts` name the student whose codec they pass through.
    """
    table = read_table(clips.path)

    def make(rows: range, _: Codec) -> Tensor:
        return read_videos(clips.path, canon, canonical, rows)[0]

    return _through_codec(clips, len(table), make, rollouts, store, canon), table


def seen_rollouts(rollouts: Artifact, store: Store, canon: CanonicalFormat) -> Tensor:
    """Rollouts uint8 [N, F, 3, H, W], in the order of their table."""
    latents = load_file(rollouts.file("rollouts.safetensors"))["latents"]

    def make(rows: range, codec: Codec) -> Tensor:
        made = as_bytes(codec.decode(latents[rows.start : rows.stop]))
        pictures = made.permute(0, 1, 3, 4, 2).numpy()
        filmed = np.stack([canonical(as_delivered(clip, canon), canon) for clip in pictures])
        return torch.from_numpy(filmed).movedim(4, 2)

    return _through_codec(rollouts, len(latents), make, rollouts, store, canon)


def at_once(shape: Sequence[int]) -> int:
    """Of how many clips of a shape [F, 3, H, W] the floats are in memory together."""
    return max(1, min(BATCH, PART_BYTES // (4 * math.prod(shape))))


def in_parts(clips: Tensor) -> Iterator[Tensor]:
    """Clips uint8 [N, F, 3, H, W] as floats in [0, 1], `at_once` of them together."""
    for part in clips.split(at_once(clips.shape[1:])):
        yield part.float() / 255
        show_life()


def in_levels(clips: Tensor) -> Tensor:
    """Clips in [0, 1] in the levels of a file, 0 to 255, as floats: NaN stays NaN."""
    return (clips * 255).round()


def as_bytes(clips: Tensor) -> Tensor:
    """Clips in [0, 1] as a file would hold them: 8 bits a channel, rounded to nearest."""
    return in_levels(clips).to(torch.uint8)


def _through_codec(
    artifact: Artifact,
    num_clips: int,
    make: Callable[[range, Codec], Tensor],
    rollouts: Artifact,
    store: Store,
    canon: CanonicalFormat,
) -> Tensor:
    """uint8 clips, a part at a time: out of the cache, or made there and sent through the codec."""
    student = store.path(rollouts.manifest.made_from["student"])
    shape = (canon.num_frames, 3, *canon.sides)
    identity = {
        "artifact": artifact.manifest.fingerprint,
        "codec": codec_sha256(student),
        "canonical": canon.params,
        "sizes": [canon.num_frames, canon.frame_size, canon.fps],
        "revision": REVISION,
    }
    codec = cache(lambda: load_codec(student))  # not at all where every part is there

    def made(rows: range) -> dict[str, Tensor]:
        clips = make(rows, codec()).float() / 255
        return {"clips": as_bytes(codec().decode(codec().encode(clips)))}

    seen = torch.empty((num_clips, *shape), dtype=torch.uint8)
    for start in range(0, num_clips, at_once(shape)):
        rows = range(start, min(start + at_once(shape), num_clips))
        part = identity | {"rows": [rows.start, rows.stop]}
        found = kept(store, "seen", part, partial(made, rows), NUM_ENTRIES)
        seen[rows.start : rows.stop] = found["clips"]
        show_life()
    return seen
