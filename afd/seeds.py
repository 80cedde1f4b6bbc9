"""The only source of randomness: every draw names its purpose, so none depends on another.

A draw keyed by (seed, names...) needs no saved state: a resumed stage at step n draws what
the uninterrupted one drew at step n, in any process and for any batching.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose: the head of sha256 over the seed and the names."""
    key = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> "torch.Generator":
    """A CPU torch generator for one purpose."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> "np.random.Generator":
    """A numpy generator (PCG64) for one purpose."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


def sample_noise(seeds: Sequence[int], shape: Sequence[int]) -> "torch.Tensor":
    """Standard normal noise [len(seeds), *shape], each sample from its own seed.

    A sample's noise is the same alone, in any batch and in any shard.
    """
    import torch

    noise = torch.empty(len(seeds), *shape)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=torch.Generator().manual_seed(seed))
    return noise
