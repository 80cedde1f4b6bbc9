"""Gauges of the game between the players: numbers that say whether its signal can be trusted.

The loss curve says nothing (at v = v_old its value does not depend on the weights), and a pair
accuracy near 1 is normal. What matters is what scores do inside groups, and whether they agree with
a panel that the discriminator has never seen.
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
    """Expected calibration error of a pair-wise discriminator, in [0, 1]; a coin has 1/2 at most.

    margins: score of teacher minus score of student, [pairs]. It claims to be right with
    probability sigmoid(|margin|) and is right when the margin is positive; the error is the mean
    distance of claim and share over equal-width bins of the claim (Guo et al., arXiv:1706.04599).
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
    """Kish's effective sample size of the update's signal |2w - 1|, as a share of the rollouts.

    1 when all rollouts pull equally, 1/n when one does all the work, 0 when none pulls.
    """
    pull = np.abs(2 * np.asarray(weights, dtype=np.float64).ravel() - 1)
    if not pull.size or not pull.any():
        return 0.0
    return float(pull.sum() ** 2 / (pull.size * np.square(pull).sum()))


def rank_correlation(scores: npt.ArrayLike, quality: npt.ArrayLike) -> float | None:
    """Mean Spearman correlation inside groups of the score with an independent quality.

    Both [prompts, group]; larger is better in both. Groups in which either is constant, or fewer
    than 3 members have a quality (nan: not defined), say nothing; None when no group says anything.
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
    """Share of clips [n, F, 3, H, W] in which nothing moves."""
    moved = [np.abs(np.diff(_floats(c), axis=0)).max(axis=(1, 2, 3)).mean() for c in clips]
    return float(np.mean(np.array(moved) < STATIC_MOTION))


def duplicate_share(groups: npt.NDArray[np.uint8]) -> float:
    """Share of clips [prompts, group, F, 3, H, W] that look like an earlier one of their group."""
    num_prompts, size = groups.shape[:2]
    alike = sum(
        any(_apart(clip, earlier) < DUPLICATE_DISTANCE for earlier in group[:member])
        for group in groups
        for member, clip in enumerate(group)
    )
    return alike / (num_prompts * size)


def _apart(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Root mean square over all pixels."""
    return float(np.sqrt(np.square(_floats(one) - _floats(other)).mean()))


def _floats(clip: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """In [0, 1]: one clip at a time, for 81 frames of 480x832 take .39 GB."""
    return clip.astype(np.float32) / np.float32(255)
