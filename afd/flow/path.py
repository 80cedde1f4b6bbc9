"""The straight path between clean and noise, and the conversions along it.

noisy = (1 - t) clean + t noise and velocity = noise - clean (Lipman et al., arXiv:2210.02747, with
t reversed: t = 1 is noise). Every function takes latents [batch, channels, frames, height, width]
and t [batch, blocks], broadcast over each block's frames.
"""

from torch import Tensor

from afd.latents import BlockTimes, Latents


def per_block(t: BlockTimes, like: Latents) -> Tensor:
    """Spread t [batch, blocks] over the frames of `like`: [batch, 1, frames, 1, 1].

    Raises ValueError when the frames of `like` do not divide into t's blocks.
    """
    num_blocks, num_frames = t.shape[1], like.shape[2]
    if num_frames % num_blocks:
        raise ValueError(
            f"t has {num_blocks} blocks: latents of {num_frames} frames do not divide into them"
        )
    return t.repeat_interleave(num_frames // num_blocks, dim=1)[:, None, :, None, None]


def noisy(clean: Latents, noise: Latents, t: BlockTimes) -> Latents:
    """Return the point at time t on the path from clean (t = 0) to noise (t = 1)."""
    time = per_block(t, clean)
    return (1 - time) * clean + time * noise


def velocity(clean: Latents, noise: Latents) -> Latents:
    """d noisy / d t, the same at every t: what a student is trained to predict."""
    return noise - clean


def clean_from_velocity(noisy: Latents, velocity: Latents, t: BlockTimes) -> Latents:
    """Return the clean end of the path through `noisy` with this velocity."""
    return noisy - per_block(t, noisy) * velocity


def velocity_from_clean(noisy: Latents, clean: Latents, t: BlockTimes) -> Latents:
    """Return the velocity of the path from `clean` through `noisy`; t must be above 0."""
    return (noisy - clean) / per_block(t, noisy)
