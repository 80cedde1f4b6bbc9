"""Classifier-free guidance: a student that is pushed away from what it does without a prompt.

velocity = without + scale (with - without), Ho & Salimans, arXiv:2207.12598; scale 1 is none.

It is for judging alone (`evaluate.guidance`), never for rollouts. The loss takes v_old for the
velocity that made the rollouts, of which positive and negative parts are a split; under guidance
the rollouts are of another velocity, the split no longer adds up to v_old, and the student would be
pulled to guided clips whatever their scores. A policy gradient along the chain would need the
guided transition's density, the last-step generator the guided velocity's gradient; neither is what
is trained. The supervised arm makes no rollouts. So no objective is left to which it could go.
"""

from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from afd.flow.solver import Autoregressive, Cache
from afd.latents import LatentGeometry, Latents, Text


@dataclass(frozen=True, slots=True)
class Both(Generic[Cache]):
    """Two histories of the same clean blocks: under the prompt, and under the empty one."""

    prompted: Cache
    unprompted: Cache


@dataclass(frozen=True, slots=True)
class Guided(Generic[Cache]):
    """An Autoregressive whose every pass is two: twice the time, twice the cache."""

    student: Autoregressive[Cache]
    empty: Text  # [1, tokens, dim]: the empty prompt, encoded as any other
    scale: float

    @property
    def geometry(self) -> LatentGeometry:
        return self.student.geometry

    def start(self, text: Text) -> Both[Cache]:
        empty = self.empty.to(text).expand(len(text), -1, -1)
        return Both(self.student.start(text), self.student.start(empty))

    def block_velocity(self, noisy_block: Latents, t: Tensor, cache: Both[Cache]) -> Latents:
        prompted = self.student.block_velocity(noisy_block, t, cache.prompted)
        unprompted = self.student.block_velocity(noisy_block, t, cache.unprompted)
        return torch.lerp(unprompted, prompted, self.scale)

    def commit(self, clean_block: Latents, cache: Both[Cache]) -> None:
        self.student.commit(clean_block, cache.prompted)
        self.student.commit(clean_block, cache.unprompted)
