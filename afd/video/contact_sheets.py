"""Contact sheets: filmstrips as PNG, clips side by side as mp4.

All functions take clips [F, 3, H, W], floats in [0, 1] or bytes. Small clips are magnified by whole
factors, nearest neighbour: a person sees the pixels that are scored.
"""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from afd.video.encode import encode

Clip = npt.NDArray[np.float32] | npt.NDArray[np.uint8]

LABEL_PX = 14
GAP_PX = 2
GROUND = 255
INK = (90, 90, 90)
MIN_SIDE_PX = 128


def filmstrips(
    clips: Sequence[Clip], labels: Sequence[str], num_frames: int = 8, side: int = 64
) -> bytes:
    """Return a PNG with one row a clip: a label above `num_frames` frames at even distances.

    The first and the last frame are among them.
    """
    if not clips or len(clips) != len(labels):
        raise ValueError(f"{len(clips)} clips and {len(labels)} labels; give one label a clip")
    columns = min(num_frames, *(len(clip) for clip in clips))
    cells = [_magnify(_frames(clip, columns), side) for clip in clips]
    height, width = cells[0].shape[1:3]
    row_height = LABEL_PX + height + GAP_PX
    sheet = Image.new("RGB", (columns * (width + GAP_PX), len(clips) * row_height), (GROUND,) * 3)
    draw = ImageDraw.Draw(sheet)
    for row, (frames, label) in enumerate(zip(cells, labels, strict=True)):
        draw.text((1, row * row_height + 1), _printable(label), fill=INK)
        for column, frame in enumerate(frames):
            place = (column * (width + GAP_PX), row * row_height + LABEL_PX)
            sheet.paste(Image.fromarray(frame), place)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def side_by_side(clips: Sequence[Clip], fps: int, min_side: int = MIN_SIDE_PX) -> bytes:
    """Return one mp4 with the clips from left to right, each at least `min_side` px high."""
    if not clips:
        raise ValueError("no clips to show")
    if len({clip.shape for clip in clips}) > 1:
        raise ValueError(f"clips of one shape, not {sorted({clip.shape for clip in clips})}")
    magnified = [_magnify(_frames(clip, len(clip)), min_side) for clip in clips]
    bar = np.full((*magnified[0].shape[:2], 2 * GAP_PX, 3), GROUND, np.uint8)
    parts = [part for clip in magnified for part in (clip, bar)][:-1]
    return encode(_even(np.concatenate(parts, axis=2)), fps)


def _frames(clip: Clip, count: int) -> npt.NDArray[np.uint8]:
    chosen = clip[np.linspace(0, len(clip) - 1, count).round().astype(int)]
    if chosen.dtype != np.uint8:
        chosen = np.rint(np.clip(chosen, 0, 1) * 255)
    return chosen.astype(np.uint8, copy=False).transpose(0, 2, 3, 1)


def _magnify(frames: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    factor = max(1, -(-side // frames.shape[1]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _even(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pad to even height and width, as yuv420p needs."""
    height, width = frames.shape[1:3]
    if height % 2 == width % 2 == 0:
        return frames
    return np.pad(frames, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)], mode="edge")


def _printable(label: str) -> str:
    """Replace characters outside Latin-1, all that Pillow's own font has, by question marks."""
    return label.encode("latin-1", "replace").decode("latin-1")
