"""The few-step, re-noising sampler of an autoregressive student: how a rollout is made.

Within a block: clean = noisy - t velocity, then next noisy = (1 - t') clean + t' FRESH noise (not
an Euler step; Self-Forcing, arXiv:2506.08009). After the last step one more pass at t = 0 writes
the clean block into the cache, so later blocks see clean history: num_steps + 1 passes a block.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from afd.flow import path
from afd.latents import LatentGeometry, Latents, Noise, Text

Cache = TypeVar("Cache")
BlockVelocity: TypeAlias = Callable[[Latents, Tensor], Latents]
"""(noisy block [batch, channels, block frames, height, width], t [batch]) -> its velocity."""


class Autoregressive(Protocol[Cache]):
    """The half of a student that a rollout needs; Cache is its running state of one rollout."""

    @property
    def geometry(self) -> LatentGeometry:
        """Shape and blocks of the latents it reads and writes."""
        ...

    def start(self, text: Text) -> Cache:
        """Return an empty history for a batch of prompts."""
        ...

    def block_velocity(self, noisy_block: Latents, t: Tensor, cache: Cache) -> Latents:
        """Velocity of the next block at t [batch]; leaves the committed history as it is."""
        ...

    def commit(self, clean_block: Latents, cache: Cache) -> None:
        """Append a finished clean block to the history: one pass at t = 0."""
        ...


def sample_block(
    velocity: BlockVelocity,
    noise: Noise,
    steps: Sequence[float],
    visited: list[Latents] | None = None,
) -> Latents:
    """Denoise one block from pure noise along `steps`; noise[:, i] enters at step i.

    The noisy input of each step is appended to `visited`, if there is one. Raises ValueError when
    the steps do not start at 1, do not fall, or do not match the noise.
    """
    check_steps(steps, noise.shape[1])
    noisy = noise[:, 0]
    clean = noisy
    for index, time in enumerate(steps):
        t = noisy.new_full((noisy.shape[0], 1), time)
        if index:
            noisy = path.noisy(clean, noise[:, index], t)
        if visited is not None:
            visited.append(noisy)
        clean = path.clean_from_velocity(noisy, velocity(noisy, t[:, 0]), t)
    return clean


@torch.no_grad()
def rollout(
    student: Autoregressive[Cache], text: Text, noise: Noise, steps: Sequence[float]
) -> Latents:
    """Sample whole clips block by block, each given the cached clean blocks before it.

    Deterministic in (weights, text, noise). Raises ValueError when the noise has another shape
    than the student's geometry and the steps ask for.
    """
    return trace(student, text, noise, steps)[0]


@torch.no_grad()
def trace(
    student: Autoregressive[Cache], text: Text, noise: Noise, steps: Sequence[float]
) -> tuple[Latents, Noise]:
    """Return a rollout and the noisy inputs it went through, [batch, steps, ...] as the noise.

    A rollout need not be stored with its chain: made again from its seeds, it visits the same
    states. Raises as `rollout`.
    """
    geometry = student.geometry
    if noise.ndim != 6 or tuple(noise.shape[2:]) != geometry.shape(1)[1:]:
        raise ValueError(
            f"noise is {tuple(noise.shape)}: must be (batch, steps, *{geometry.shape(1)[1:]})"
        )
    cache = student.start(text)

    def velocity(noisy: Latents, t: Tensor) -> Latents:
        return student.block_velocity(noisy, t, cache)

    blocks: list[Tensor] = []
    chains: list[Tensor] = []
    for block in range(geometry.num_blocks):
        visited: list[Tensor] = []
        part = noise[:, :, :, geometry.block_frames(block)]
        clean = sample_block(velocity, part, steps, visited)
        student.commit(clean, cache)
        blocks.append(clean)
        chains.append(torch.stack(visited, dim=1))
    return torch.cat(blocks, dim=2), torch.cat(chains, dim=3)


def check_steps(steps: Sequence[float], num_noises: int) -> None:
    """Refuse a step list that does not describe a descent from pure noise."""
    if len(steps) != num_noises:
        raise ValueError(f"noise has {num_noises} steps: the step list has {len(steps)}")
    if not steps or steps[0] != 1:
        raise ValueError(f"steps are {tuple(steps)}: must start at 1, where noisy is pure noise")
    if any(later >= earlier for earlier, later in pairwise(steps)) or steps[-1] <= 0:
        raise ValueError(f"steps are {tuple(steps)}: must fall strictly and stay above 0")
