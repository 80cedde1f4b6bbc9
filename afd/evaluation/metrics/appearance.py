"""Appearance of clips, apart from motion: features for a Frechet distance between looks.

The statistics of a frame do not depend on the places of its balls; a clip has their mean over its
frames. So the teacher's motion leaves a student's distance as it is, and the teacher's contrast or
grain raises it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

VERSION = 1  # enters the evaluation card; raise it when a feature or a scale below changes

Floats = npt.NDArray[np.float64]
Clips = npt.NDArray[np.float32]

# Name and scale of every feature: the distance is measured in these units, which are fixed, not
# fitted, so that distances of different campaigns compare. On 432 clips against the base corpus:
# other seeds .001, the teacher's motion in the clean look .01, H.264 there and back .3, a blur of
# .7 px 11, the odd look 88. So 1 is a visible change.
FEATURES: dict[str, float] = {
    "ground_red": 0.1,
    "ground_green": 0.1,
    "ground_blue": 0.1,
    "ground_grain": 0.1,
    "peak_red": 0.4,  # differs between prompts by design: .16 to .92
    "peak_green": 0.4,
    "peak_blue": 0.4,
    "contrast": 0.2,
    "saturation": 0.2,
    "edge": 0.1,
    "covered_share": 0.1,
    "flat_share": 0.2,
    "soft_share": 0.2,
    "hard_share": 0.1,
}
PEAK_SHARE = 0.02  # 5 of 256 pixels: the core of a small ball
EDGE_SHARE = 0.02
PIXELS_AT_ONCE = 2**24  # numbers of a part of the frames: a copy in float64 takes 134 MB
FLAT, HARD = 0.02, 0.15  # gradients in grey levels: below is ground, above a ball's edge


class Frechet(NamedTuple):
    """A distance, None below 2 clips a side, and the number of clips of each side."""

    distance: float | None
    num_a: int
    num_b: int


def look_features(clips: Clips) -> Floats:
    """Return features [N, len(FEATURES)] of clips [N, F, 3, H, W] in [0, 1], over their scales."""
    if clips.ndim != 5 or clips.shape[2] != 3:
        raise ValueError(f"clips must be [N, F, 3, H, W], not {clips.shape}")
    if not np.isfinite(clips).all():
        raise ValueError("clips hold values that are not finite")
    columns = np.empty((len(clips), len(FEATURES)))
    for start in range(0, len(clips), 256):
        part = clips[start : start + 256]
        step = max(1, PIXELS_AT_ONCE // (part[:, 0].size or 1))  # frames: each stands for itself
        frames = [
            _features(part[:, first : first + step]) for first in range(0, part.shape[1], step)
        ]
        columns[start : start + 256] = np.concatenate(frames, axis=1).mean(axis=1)
    return columns / np.array(list(FEATURES.values()))


def frechet_distance(a: Floats, b: Floats) -> Frechet:
    """Return the squared Frechet distance of two Gaussians fitted to [N, D] and [M, D].

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) with the unbiased covariances A and B;
    eigenvalues below 0 (rounding, fewer clips than features) count as 0, so the value is real and
    not negative. It is biased upward at small n: compare values of equal n only.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features must be [N, D] and [M, D], not {a.shape} and {b.shape}")
    if min(len(a), len(b)) < 2:
        return Frechet(None, len(a), len(b))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cov_a, cov_b = np.atleast_2d(cov_a), np.atleast_2d(cov_b)
    root_a = _root(cov_a)
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0.0)).sum()
    apart = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    distance = apart + np.trace(cov_a) + np.trace(cov_b) - 2 * shared
    return Frechet(float(max(distance, 0.0)), len(a), len(b))


def _root(covariance: Floats) -> Floats:
    """Return the symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _features(clips: Clips) -> Floats:
    """Return the features of every frame, [N, F, len(FEATURES)]."""
    num_clips, num_frames, _, height, width = clips.shape
    pixels = clips.reshape(num_clips, num_frames, 3, -1).astype(np.float64)  # [N, F, 3, P]
    ground = np.median(pixels, axis=-1)  # [N, F, 3]
    grain = 1.4826 * np.median(np.abs(pixels - ground[..., None]), axis=-1).mean(axis=-1)

    count = max(1, round(PEAK_SHARE * height * width))
    above = (pixels - ground[..., None]).max(axis=2)  # how far a pixel stands out, any channel
    strongest = np.argpartition(above, -count, axis=-1)[..., -count:]
    peak = np.take_along_axis(pixels, strongest[:, :, None], axis=-1).mean(axis=-1)  # [N, F, 3]
    contrast = np.take_along_axis(above, strongest, axis=-1).mean(axis=-1)
    saturation = peak.max(axis=-1) - peak.min(axis=-1)
    covered = (above > 0.5 * contrast[..., None]).mean(axis=-1)

    gradients = _gradients(clips)  # [N, F, pairs]
    edges = max(1, round(EDGE_SHARE * gradients.shape[-1]))
    edge = np.partition(gradients, -edges, axis=-1)[..., -edges:].mean(axis=-1)
    flat = (gradients < FLAT).mean(axis=-1)
    hard = (gradients >= HARD).mean(axis=-1)
    columns = [ground, grain[..., None], peak, contrast[..., None], saturation[..., None]]
    columns += [part[..., None] for part in (edge, covered, flat, 1 - flat - hard, hard)]
    return np.concatenate(columns, axis=-1)


def _gradients(clips: Clips) -> Floats:
    """Return the largest channel difference of each pair of neighbouring pixels: [N, F, pairs]."""
    shape = clips.shape[:2]
    across = np.abs(np.diff(clips, axis=-1)).max(axis=2).reshape(*shape, -1)
    down = np.abs(np.diff(clips, axis=-2)).max(axis=2).reshape(*shape, -1)
    return np.concatenate([across, down], axis=-1).astype(np.float64)
