"""What the method asks of a student, in words free of any architecture.

A student generates a clip block by block. It is trained on all blocks at once, in one parallel pass
over [clean | noisy], which must give the same velocities as its cached, block-by-block self:
otherwise training and rollout are two different models.
"""

from typing import Any, Protocol, Self, TypeAlias, TypeVar

from afd.flow.solver import Autoregressive
from afd.latents import BlockTimes, Latents, Text

Cache = TypeVar("Cache")


class Student(Autoregressive[Cache], Protocol[Cache]):
    """A causal, few-step velocity model over latents: trained in parallel, rolled out cached."""

    def velocity(self, noisy: Latents, t: BlockTimes, text: Text, clean: Latents) -> Latents:
        """Velocity of every block in one pass.

        Block i sees its own noisy block and the blocks of `clean` before i, nothing else.
        """
        ...

    def lengthened(self, num_latent_frames: int) -> Self:
        """The same weights for clips of another length."""
        ...


AnyStudent: TypeAlias = Student[Any]
