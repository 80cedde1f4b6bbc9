"""Scores -> advantages -> weights: from a discriminator's scores to the w of the loss.

Scores are [prompts, group]: one row for all rollouts of a prompt. No result carries gradient.
"""

from typing import Literal, TypeAlias

import torch
from torch import Generator, Tensor

Scope: TypeAlias = Literal["group", "batch"]


def smallest_spread(precision: torch.dtype) -> float:
    """Return the spread of scores, of order 1, below which differences are rounding.

    `precision` is the discriminator's: ten steps of a float32, one of a bfloat16 (.008).
    """
    return 1e-6 if precision == torch.float32 else torch.finfo(precision).eps


SMALLEST_SPREAD = smallest_spread(torch.float32)


def advantages(
    scores: Tensor, clip: float, scope: Scope = "group", smallest: float = SMALLEST_SPREAD
) -> Tensor:
    """(score - mean) / spread, clipped to [-clip, clip]; [prompts, group] -> [prompts, group].

    Mean and spread (population standard deviation) are those of the prompt's group, or of the whole
    batch. Before clipping they sum to zero within the scope. A scope whose spread is not above
    `smallest` has advantages 0. Raises ValueError when clip <= 0.
    """
    if clip <= 0:
        raise ValueError(f"clip is {clip}: must be above 0")
    scores = scores.detach()
    dims = (1,) if scope == "group" else (0, 1)
    centred = scores - scores.mean(dim=dims, keepdim=True)
    spread = centred.square().mean(dim=dims, keepdim=True).sqrt()
    standard = torch.where(spread > smallest, centred / spread.clamp_min(smallest), 0.0)
    return standard.clamp(-clip, clip)


def weights(advantages: Tensor, clip: float) -> Tensor:
    """DiffusionNFT's map to [0, 1]: clip(advantage / (2 clip) + 1/2, 0, 1).

    Advantage 0 gives 1/2, which has no effect.
    """
    return (advantages / (2 * clip) + 0.5).clamp(0, 1)


def extremes(advantages: Tensor, best: int, worst: int) -> Tensor:
    """Return indices of each group's best, then worst rollouts, [prompts, best + worst].

    The two ends carry most of the signal. Ties are broken by position, so the choice is
    reproducible. Raises ValueError when a group is too small.
    """
    group_size = advantages.shape[1]
    if best < 0 or worst < 0 or best + worst < 1 or best + worst > group_size:
        raise ValueError(
            f"best {best} + worst {worst}: must be between 1 and the group size, {group_size}"
        )
    order = advantages.argsort(dim=1, descending=True, stable=True)
    return torch.cat([order[:, :best], order[:, group_size - worst :]], dim=1)


def shuffled(advantages: Tensor, generator: Generator) -> Tensor:
    """Return each group's advantages in a random order: the control, which must improve nothing."""
    order = torch.rand(advantages.shape, generator=generator).argsort(dim=1)
    return advantages.gather(1, order)


def zero_spread_share(scores: Tensor, smallest: float = SMALLEST_SPREAD) -> Tensor:
    """Return the share of groups with equal scores: the gauge of a saturated discriminator."""
    return (scores.std(dim=1, correction=0) <= smallest).float().mean()
