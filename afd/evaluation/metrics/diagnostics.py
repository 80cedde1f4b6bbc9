"""Diagnostics of the adversarial signal.

The loss curve is no diagnostic (at v = v_old its value does not depend on the weights), and a pair
accuracy near 1 is normal. The signal is good where scores differ inside groups and agree with
metrics on which the discriminator was not trained.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats

Floats = npt.NDArray[np.float64]

NUM_BINS = 10
STATIC_MOTION = 1 / 255  # of the pixel that changes most, from frame to frame: below, nothing moves
DUPLICATE_DISTANCE = 2 / 255  # root mean square between two clips of a group that look alike


def calibration_error(margins: npt.ArrayLike) -> float:
    """Return the expected calibration error of a pair-wise discriminator, in [0, 1].

    margins: score of teacher minus score of student, [pairs]. The discriminator claims to be right
    with probability sigmoid(|margin|) and is right where the margin is positive; the error is the
    mean distance of claim and share over equal-width bins of the claim (Guo et al.,
    arXiv:1706.04599). A random margin has 1/2 at most.
    Raises ValueError without a pair.
    """
    margin = np.asarray(margins, dtype=np.float64)
    if margin.ndim != 1 or not len(margin):
        raise ValueError(f"margins must be [pairs], at least one, not {margin.shape}")
    claim = 1 / (1 + np.exp(-np.abs(margin)))
    right = (margin > 0).astype(np.float64)
    edges = np.minimum((2 * (claim - 0.5) * NUM_BINS).astype(int), NUM_BINS - 1)
    total = 0.0
    for place in np.unique(edges):
        here = edges == place
        total += here.mean() * abs(claim[here].mean() - right[here].mean())
    return float(total)


def effective_share(weights: npt.ArrayLike) -> float:
    """Return Kish's effective sample size of the signal |2w - 1| as a share of the rollouts.

    1 where all rollouts have equal weight, 1/n where one has it all, 0 where none has any.
    """
    pull = np.abs(2 * np.asarray(weights, dtype=np.float64).ravel() - 1)
    if not pull.size or not pull.any():
        return 0.0
    return float(pull.sum() ** 2 / (pull.size * np.square(pull).sum()))


def rank_correlation(scores: npt.ArrayLike, quality: npt.ArrayLike) -> float | None:
    """Return the mean Spearman correlation, inside groups, of score and an independent quality.

    Both [prompts, group]; larger is better in both. Groups in which either is constant, or fewer
    than 3 members have a quality (nan: not defined), are left out; None where no group is left.
    """
    both = np.asarray(scores, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if both[0].shape != both[1].shape or both[0].ndim != 2:
        raise ValueError(f"scores {both[0].shape} and quality {both[1].shape}: [prompts, group]")
    found: list[float] = []
    for score, value in zip(*both, strict=True):
        known = np.isfinite(score) & np.isfinite(value)
        if known.sum() < 3 or np.ptp(score[known]) == 0 or np.ptp(value[known]) == 0:
            continue
        rank: Any = scipy.stats.spearmanr(score[known], value[known])
        found.append(float(rank.statistic))
    return float(np.mean(found)) if found else None


def static_share(clips: npt.NDArray[np.uint8]) -> float:
    """Return the share of clips [n, F, 3, H, W] in which nothing moves."""
    moved = [np.abs(np.diff(_floats(c), axis=0)).max(axis=(1, 2, 3)).mean() for c in clips]
    return float(np.mean(np.array(moved) < STATIC_MOTION))


def duplicate_share(groups: npt.NDArray[np.uint8]) -> float:
    """Return the share of clips [prompts, group, F, 3, H, W] like an earlier one of their group."""
    num_prompts, size = groups.shape[:2]
    alike = sum(
        any(_distance(clip, earlier) < DUPLICATE_DISTANCE for earlier in group[:member])
        for group in groups
        for member, clip in enumerate(group)
    )
    return alike / (num_prompts * size)


def _distance(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the root mean square difference over all pixels."""
    return float(np.sqrt(np.square(_floats(one) - _floats(other)).mean()))


def _floats(clip: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return one clip as floats in [0, 1]: 81 frames of 480x832 take .39 GB."""
    return clip.astype(np.float32) / np.float32(255)
