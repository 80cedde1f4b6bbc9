"""Times on the path: the sampler's step list and the distributions that training draws from.

Rollout and training must share one list: a few-step student only ever runs on its own steps, so a
velocity learned anywhere else is never used.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Generator

from afd.latents import BlockTimes

TimeDistribution: TypeAlias = Literal["steps", "uniform", "shifted_uniform"]
# 1 on diffusers' scale: below it, (noisy - clean) / t amplifies rounding more than 1000-fold
SMALLEST_TIME = 1e-3


def shifted(t: float, shift: float) -> float:
    """Warp t towards noise, s t / (1 + (s - 1) t): SD3's shift (arXiv:2403.03206, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def step_list(num_steps: int, shift: float) -> tuple[float, ...]:
    """Return the times a few-step sampler visits, from 1 down, 0 excluded.

    4 steps with shift 3 are 1, .9, .75, .5; with shift 5: 1, .9375, .8333, .625 (Self-Forcing).
    Raises ValueError when num_steps < 1 or shift <= 0.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}: must be at least 1")
    if shift <= 0:
        raise ValueError(f"shift is {shift}: must be above 0")
    return tuple(shifted((num_steps - step) / num_steps, shift) for step in range(num_steps))


def draw_times(
    distribution: TimeDistribution,
    batch: int,
    num_blocks: int,
    generator: Generator,
    *,
    steps: Sequence[float] = (),
    shift: float = 1.0,
) -> BlockTimes:
    """Draw t [batch, num_blocks], every block of every sample independently.

    "steps" picks uniformly from `steps` (the default of the method: pass the sampler's own
    step_list); "uniform" is U(SMALLEST_TIME, 1); "shifted_uniform" warps uniform draws by `shift`.
    Raises ValueError when "steps" is asked for without steps.
    """
    if distribution == "steps":
        if not steps:
            raise ValueError(
                'steps is empty: distribution "steps" draws from the sampler\'s step list'
            )
        choice = torch.randint(len(steps), (batch, num_blocks), generator=generator)
        return torch.tensor(tuple(steps), dtype=torch.float32)[choice]
    uniform = torch.rand(batch, num_blocks, generator=generator)
    if distribution == "shifted_uniform":
        uniform = shift * uniform / (1 + (shift - 1) * uniform)
    return SMALLEST_TIME + (1 - SMALLEST_TIME) * uniform
