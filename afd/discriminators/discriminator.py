"""What the method asks of a discriminator: a score of finished clips under their prompts."""

from typing import Protocol

from torch import Generator

from afd.latents import Clips, Scores, Text


class Discriminator(Protocol):
    """Scores how much a clip looks like the teacher's answer to its prompt.

    Only differences within a prompt mean anything.
    """

    def score(self, clips: Clips, text: Text, generator: Generator) -> Scores:
        """One score a clip, differentiable in weights and clips; it draws from `generator` only."""
        ...
