"""Seeds of all random draws, derived from the campaign's seed and the names of a purpose.

A draw keyed by (seed, names...) needs no saved state: a resumed stage has at step n the draws of
the uninterrupted one, in any process and for any batching.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for one purpose: the head of sha256 over the seed and the names."""
    key = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> "torch.Generator":
    """Return a CPU torch generator for one purpose."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> "np.random.Generator":
    """Return a numpy generator (PCG64) for one purpose."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


def sample_noise(seeds: Sequence[int], shape: Sequence[int]) -> "torch.Tensor":
    """Return standard normal noise [len(seeds), *shape], each sample from its own seed.

    A sample's noise is the same alone, in any batch and in any shard.
    """
    import torch

    noise = torch.empty(len(seeds), *shape)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=torch.Generator().manual_seed(seed))
    return noise
