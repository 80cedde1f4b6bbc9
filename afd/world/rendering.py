"""Rendering of a scene: anti-aliased discs on a dark ground, at any resolution.

One unit of length is a px of the 16x16 student grid; a frame of 64x64 shows the same room four
times finer. The student's look is CLEAN. A black-box teacher looks different by construction:
ODD dims the balls, lifts the ground and adds sensor grain in cells of one student px, which
survives the way down to the student's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from afd.world.scenes import ROOM_PX, Range
from afd.world.sentences import Colour, Sentence

# Saturated and far apart, so that a pixel can be unmixed into colours (evaluation/tracking.py);
# none reaches 1, which leaves headroom for grain before clipping.
RGB: dict[Colour, tuple[float, float, float]] = {
    "red": (0.92, 0.16, 0.14),
    "green": (0.14, 0.80, 0.20),
    "blue": (0.18, 0.34, 0.95),
    "yellow": (0.92, 0.82, 0.12),
}
GROUND = 0.06  # grey level of the clean look


@dataclass(frozen=True)
class Look:
    """The look of a film-maker's clips; ranges are drawn once per clip, uniformly.

    contrast    factor on the difference between a ball's colour and the clean ground
    background  grey level of the ground
    grain       standard deviation of the sensor grain, per channel, before clipping to [0, 1],
                at the student's size; white in time and space. H.264 4:2:0 halves chroma
                and leaves .12 to .14 of .15 after decoding and area averages
    grain_px    side of a grain cell in student px
    """

    contrast: Range = (1.0, 1.0)
    background: Range = (GROUND, GROUND)
    grain: float = 0.0
    grain_px: float = 1.0

    def __post_init__(self) -> None:
        for name in ("contrast", "background"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise ValueError(f"look.{name}: a range 0 <= low <= high <= 1, not ({low}, {high})")
        if not (np.isfinite(self.grain) and self.grain >= 0):
            raise ValueError(f"look.grain: finite, >= 0, not {self.grain}")
        if not (np.isfinite(self.grain_px) and self.grain_px > 0):
            raise ValueError(f"look.grain_px: finite, > 0, not {self.grain_px}")


CLEAN = Look()
# The ground is lifted so far that little of the grain is clipped away at black.
ODD = Look(contrast=(0.5, 0.9), background=(0.15, 0.25), grain=0.15)


def colours(sentence: Sentence) -> npt.NDArray[np.float64]:
    """RGB of each ball in [0, 1]: [balls, 3]."""
    return np.array([RGB[ball.colour] for ball in sentence.balls])


def render(
    positions: npt.NDArray[np.float64],
    radii: Sequence[float],
    rgb: npt.NDArray[np.float64],
    resolution: int,
    look: Look,
    generator: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """One clip [F, 3, resolution, resolution] in [0, 1] from centres [F, bodies, 2] in px.

    A later body covers an earlier one. A disc's edge is one px of `resolution` wide.
    """
    num_frames = len(positions)
    contrast = generator.uniform(*look.contrast)
    ground = generator.uniform(*look.background)
    scale = resolution / ROOM_PX
    centre = np.arange(resolution) + 0.5
    frames = np.zeros((num_frames, 3, resolution, resolution))
    for number, radius in enumerate(radii):
        x = positions[:, number, 0, None] * scale
        y = positions[:, number, 1, None] * scale
        cover = np.sqrt((centre - y)[:, :, None] ** 2 + (centre - x)[:, None, :] ** 2)  # distance
        np.subtract(radius * scale, cover, out=cover)
        cover += 0.5
        np.clip(cover, 0.0, 1.0, out=cover)  # [F, H, W]
        colour = contrast * (rgb[number] - GROUND)
        for channel in range(3):
            layer = frames[:, channel]
            layer += cover * (colour[channel] - layer)
    frames += ground
    if look.grain:
        frames += look.grain * _grain(num_frames, resolution, look.grain_px, generator)
    return np.clip(frames, 0.0, 1.0, out=frames).astype(np.float32)


def _grain(
    num_frames: int, resolution: int, grain_px: float, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Unit-variance grain constant over cells of `grain_px` student px: [F, 3, H, W]."""
    cells = int(np.ceil(ROOM_PX / grain_px))
    side = ((np.arange(resolution) + 0.5) * ROOM_PX / resolution / grain_px).astype(int)
    grain = generator.standard_normal((num_frames, 3, cells, cells))
    return grain.take(side, axis=2).take(side, axis=3)


def to_uint8(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """[F, 3, H, W] in [0, 1] -> [F, H, W, 3] in 0..255, rounded to nearest: as clips are stored."""
    return np.rint(frames.transpose(0, 2, 3, 1) * 255.0).astype(np.uint8)
