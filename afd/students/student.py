"""Interface of a student, free of any architecture.

A student generates a clip block by block. Training computes all blocks at once, in one parallel
pass over [clean | noisy]. That pass must give the same velocities as the cached passes block by
block: otherwise training and rollout are two different models.
"""

from typing import Any, Protocol, Self, TypeAlias, TypeVar

from afd.flow.solver import Autoregressive
from afd.latents import BlockTimes, Latents, Text

Cache = TypeVar("Cache")


class Student(Autoregressive[Cache], Protocol[Cache]):
    """A causal, few-step velocity model over latents: trained in parallel, rolled out cached."""

    def velocity(self, noisy: Latents, t: BlockTimes, text: Text, clean: Latents) -> Latents:
        """Return the velocity of every block in one pass.

        Block i depends on its own noisy block and on the blocks of `clean` before i alone.
        """
        ...

    def lengthened(self, num_latent_frames: int) -> Self:
        """Return a student that shares these weights, for clips of another length."""
        ...


AnyStudent: TypeAlias = Student[Any]
