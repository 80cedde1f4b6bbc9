"""Tensor shapes of the method and the order of their axes.

Everywhere t = 1 is noise and t = 0 is clean. Latents follow diffusers' axis order
(batch, channels, frames, height, width); clips follow the order of a video file (batch, frames,
channels, height, width).
"""

from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

Clips: TypeAlias = Float[Tensor, "batch frames 3 rows columns"]
"""Pixels in [0, 1]."""
Latents: TypeAlias = Float[Tensor, "batch channels latent_frames height width"]
"""Clean latents, noisy latents, velocities: all inputs and outputs of a student."""
Noise: TypeAlias = Float[Tensor, "batch steps channels latent_frames height width"]
"""Noise of one rollout, drawn per sample from that sample's own seed."""
BlockTimes: TypeAlias = Float[Tensor, "batch blocks"]
"""One t in [0, 1] for each block of each sample."""
Text: TypeAlias = Float[Tensor, "batch tokens text_dim"]
"""Encoded prompts, padded with zero rows and used without a mask, as Wan does."""
Scores: TypeAlias = Float[Tensor, "batch"]  # noqa: F821 - a name of one dimension
"""One discriminator score per clip; unbounded, larger means more like the teacher."""


@dataclass(frozen=True, slots=True)
class LatentGeometry:
    """Shape of one clip in latent space, and its split into autoregressive blocks.

    Raises ValueError when a size is not positive or when the frames do not divide into whole
    blocks.
    """

    channels: int
    num_latent_frames: int
    latent_frames_per_block: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for field in (
            "channels",
            "num_latent_frames",
            "latent_frames_per_block",
            "height",
            "width",
        ):
            value = getattr(self, field)
            if value < 1:
                raise ValueError(f"{field} is {value}: must be at least 1")
        if self.num_latent_frames % self.latent_frames_per_block:
            raise ValueError(
                f"num_latent_frames is {self.num_latent_frames}: must be a multiple of"
                f" latent_frames_per_block, which is {self.latent_frames_per_block}"
            )

    @property
    def num_blocks(self) -> int:
        """Number of autoregressive blocks."""
        return self.num_latent_frames // self.latent_frames_per_block

    def shape(self, batch: int) -> tuple[int, int, int, int, int]:
        """Return the shape of `batch` clips of latents."""
        return (batch, self.channels, self.num_latent_frames, self.height, self.width)

    def block_frames(self, block: int) -> slice:
        """Return the latent frames of one block as a slice of the frame axis."""
        if not 0 <= block < self.num_blocks:
            raise IndexError(
                f"block is {block}: there are {self.num_blocks} blocks, counted from 0"
            )
        start = block * self.latent_frames_per_block
        return slice(start, start + self.latent_frames_per_block)
