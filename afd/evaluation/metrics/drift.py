"""Drift of a causal student: pocket-world metrics block by block.

A student that continues from its cache repeats its own errors; a mean over a clip hides their
beginning. Every metric is [N, blocks] float64 of BLOCK frames each, nan where it is not defined.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from afd.evaluation.metrics.pocket import (
    MASS_BAND,
    ball_colours,
    sharpness,
    valid_trajectories,
)
from afd.evaluation.metrics.tracking import early_mass, track
from afd.world.scenes import TEACHER, Laws
from afd.world.sentences import Sentence

VERSION = 1  # raise it when a definition below changes
BLOCK = 4  # frames: one latent frame of the pocket student, which is its block
NAMES = ("trajectory_error_px", "object_permanence", "sharpness", "brightness")

Floats = npt.NDArray[np.float64]
Clips = npt.NDArray[np.float32]


def measure(clips: Clips, sentences: Sequence[Sentence], laws: Laws = TEACHER) -> dict[str, Floats]:
    """Return all NAMES for clips [N, F, 3, 16, 16], F a multiple of BLOCK, else ValueError."""
    num_frames = clips.shape[1]
    if num_frames % BLOCK:
        raise ValueError(f"clips have {num_frames} frames: must be a multiple of {BLOCK}")
    tracks = track(clips, ball_colours(sentences))
    valid = valid_trajectories(tracks.centres[:, 0], sentences, num_frames, laws)
    named = np.broadcast_to(tracks.named[:, None], tracks.seen.shape)
    distance = np.where(named, np.linalg.norm(tracks.centres - valid, axis=-1), np.nan)
    early = early_mass(tracks.masses)[:, None]
    with np.errstate(invalid="ignore"):
        low, high = MASS_BAND
        present = (tracks.masses >= low * early) & (tracks.masses <= high * early) & (early > 0)
    blocks = clips.reshape(len(clips), -1, BLOCK, *clips.shape[2:])
    return {
        "trajectory_error_px": _by_block(distance),
        "object_permanence": _by_block(np.where(named, present.astype(np.float64), np.nan)),
        "sharpness": np.stack([sharpness(block) for block in blocks.swapaxes(0, 1)], axis=1),
        "brightness": blocks.mean(axis=(2, 3, 4, 5), dtype=np.float64),
    }


def _by_block(values: Floats) -> Floats:
    """Return the mean of [N, F, balls] over each block's frames and its finite values."""
    blocks = values.reshape(len(values), -1, BLOCK, math.prod(values.shape[2:]))
    there = np.isfinite(blocks)
    total = np.where(there, blocks, 0.0).sum(axis=(2, 3))
    count = there.sum(axis=(2, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
