"""Patches of latent frames in Wan's order of axes."""

from torch import Tensor

from afd.latents import Latents


def to_patches(frames: Latents, rows: int, columns: int) -> Tensor:
    """[batch, channels, frames, height, width] -> [batch * frames, patches, channels * r * c]."""
    batch, channels, num_frames, height, width = frames.shape
    patches = frames.reshape(
        batch, channels, num_frames, height // rows, rows, width // columns, columns
    )
    # -> batch, frames, row, column, channels, rows, columns
    return patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3).flatten(0, 1)


def from_patches(patches: Tensor, size: tuple[int, int], rows: int, columns: int) -> Latents:
    """[batch, frames, patches, r * c * channels] -> [batch, channels, frames, height, width].

    The channels of a patch come last here and first in `to_patches`, as in Wan's weights.
    """
    (batch, num_frames, *_), (height, width) = patches.shape, size
    split = patches.reshape(batch, num_frames, height // rows, width // columns, rows, columns, -1)
    # batch, frames, row, column, rows, columns, channels -> batch, channels, frames, height, width
    return split.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
