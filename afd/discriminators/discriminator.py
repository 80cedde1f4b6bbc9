"""The interface of a discriminator: a score of finished clips under their prompts.

Stages are the same for every kind. They preprocess pixels and sentences once (`see`, `read`) into
rows of tensors, which they index, shuffle and slice, and compute scores of those rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Generator, Tensor

from afd.latents import Clips, Scores, Text

TextEncoder: TypeAlias = Callable[[Sequence[str]], Text]
"""The student's text encoder, for discriminators that have none of their own."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The sizes of a campaign that a discriminator depends on."""

    num_frames: int
    frame_size: int | Sequence[int]  # px: a side, or rows and columns
    text_dim: int  # of the student's text encoder


class Discriminator(Protocol):
    """Scores how much a clip looks like the teacher's answer to its prompt.

    Only differences within a prompt mean anything. It is an nn.Module: parameters that require
    gradient are trained and saved, the others stand in the weights it was started from.
    """

    @property
    def precision(self) -> torch.dtype:
        """In which most of a score is computed: what of a difference between two is rounding."""
        ...

    @property
    def penalty_step(self) -> float | None:
        """Step of the finite-difference R1 (losses/gradient_penalty.py); None: the exact one."""
        ...

    @property
    def micro_batch(self) -> int | None:
        """Pairs for which memory is taken at once; None: a whole batch."""
        ...

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Prompts as rows of one tensor: what `score` takes as text."""
        ...

    def see(self, clips: Clips) -> Tensor:
        """Clips as rows of what `score` takes, without gradient; all that is frozen is done here.

        Clips of both sides have taken one decode, resize and frame-rate path before.
        """
        ...

    def __call__(self, seen: Tensor, text: Tensor, generator: Generator) -> Scores:
        """One training pass: a score a row, differentiable in weights and `seen`."""
        ...

    def score(self, seen: Tensor, text: Tensor, generator: Generator) -> Scores:
        """Return the score that the advantage uses, one a row; `generator` alone draws in it."""
        ...
