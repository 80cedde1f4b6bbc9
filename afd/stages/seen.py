"""What a discriminator sees: both sides' clips through the one path (afd/data/canonical.py).

Teacher clips and rollouts meet here as finished videos, take the same steps, and pass through the
student's codec, so that what it blurs gives nobody away. Clips are kept as bytes, .1 GB each at
480p, and are floats in parts alone. What came out is kept in the store's cache: replayed rounds,
and update after fit, only read it.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from afd.artifacts import Artifact
from afd.data.canonical import Canon, canonical, film
from afd.data.shards import read_table, read_videos
from afd.stages.cache import kept
from afd.store import Store
from afd.students.checkpoint import load_codec

REVISION = 1  # raise it when this path changes its pictures
BATCH = 128  # clips decoded at a time, where they are small
PART_BYTES = 2**30  # of floats at a time: 2 clips of 81 frames of 480x832, which are .39 GB each
NUM_ENTRIES = 64  # both sides of 32 rounds: 0.2 GB of the pocket campaign


def seen_teacher(
    clips: Artifact, rollouts: Artifact, store: Store, canon: Canon
) -> tuple[Tensor, pd.DataFrame]:
    """Teacher clips uint8 [P, F, 3, H, W] and their table.

    `rollouts` name the student whose codec they pass through.
    """

    def make() -> Tensor:
        return read_videos(clips.path, canon, canonical)[0]

    return _through_codec(_cached(clips, store, canon, make), rollouts, store), read_table(
        clips.path
    )


def seen_rollouts(rollouts: Artifact, store: Store, canon: Canon) -> Tensor:
    """Rollouts uint8 [N, F, 3, H, W], in the order of their table."""

    def make() -> Tensor:
        codec = load_codec(store.path(rollouts.manifest.made_from["student"]))
        latents = load_file(rollouts.file("rollouts.safetensors"))["latents"]
        shape = (canon.num_frames, 3, *canon.sides)
        seen = torch.empty((len(latents), *shape), dtype=torch.uint8)
        for part, made in zip(*(of.split(at_once(shape)) for of in (latents, seen)), strict=True):
            pictures = as_bytes(codec.decode(part)).permute(0, 1, 3, 4, 2).numpy()
            for clip, into in zip(pictures, made, strict=True):
                into.copy_(torch.from_numpy(canonical(film(clip, canon), canon)).movedim(3, 1))
        return seen

    return _through_codec(_cached(rollouts, store, canon, make), rollouts, store)


def at_once(shape: Sequence[int]) -> int:
    """Of how many clips of a shape [F, 3, H, W] the floats are in memory together."""
    return max(1, min(BATCH, PART_BYTES // (4 * math.prod(shape))))


def in_parts(clips: Tensor) -> Iterator[Tensor]:
    """Clips uint8 [N, F, 3, H, W] as floats in [0, 1], `at_once` of them together."""
    for part in clips.split(at_once(clips.shape[1:])):
        yield part.float() / 255


def in_levels(clips: Tensor) -> Tensor:
    """Clips in [0, 1] in the levels of a file, 0 to 255, as floats: NaN stays NaN."""
    return (clips * 255).round()


def as_bytes(clips: Tensor) -> Tensor:
    """Clips in [0, 1] as a file would hold them: 8 bits a channel, rounded to nearest."""
    return in_levels(clips).to(torch.uint8)


def _through_codec(clips: Tensor, rollouts: Artifact, store: Store) -> Tensor:
    """In place."""
    codec = load_codec(store.path(rollouts.manifest.made_from["student"]))
    start = 0
    for part in in_parts(clips):
        clips[start : start + len(part)] = as_bytes(codec.decode(codec.encode(part)))
        start += len(part)
    return clips


def _cached(artifact: Artifact, store: Store, canon: Canon, make: Callable[[], Tensor]) -> Tensor:
    """uint8 clips out of the cache, under all that they depend on."""
    identity = {
        "artifact": artifact.manifest.fingerprint,
        "canonical": canon.params,
        "sizes": [canon.num_frames, canon.frame_size, canon.fps],
        "revision": REVISION,
    }
    return kept(store, "seen", identity, lambda: {"clips": make()}, NUM_ENTRIES)["clips"]
