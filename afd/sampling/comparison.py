"""Videos beside each other: one mp4 or PNG with labels and sentences burnt in."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from afd.sampling.errors import SamplingError
from afd.sampling.video import Frames, Video, even, factor_of, magnified
from afd.video.encode import encode

Picture = npt.NDArray[np.uint8]  # [H, W, 3], RGB
GROUND, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
FONT_PX, LINE_PX, GAP_PX, MAX_LINES = 16, 22, 8, 4
MAX_SIDE = 4096  # px: what players decode
THUMBNAIL_PX, NUM_THUMBNAILS = 128, 8


@dataclass(frozen=True)
class Row:
    """One sentence and the videos of it, from left to right; None where there is none."""

    sentence: str
    columns: tuple[tuple[str, Video | None], ...]  # label, video


def comparison(rows: Sequence[Row], scale: int | None = None) -> bytes:
    """One mp4: a row a sentence, its text above, a label over each video.

    All videos are of one shape and rate. Raises SamplingError where players could not show it.
    """
    first = _first(rows)
    rows_and_columns = first.frames.shape[1:3]
    refuse_too_large(len(rows), max(len(row.columns) for row in rows), rows_and_columns, scale)
    made = [_row(row, first, scale) for row in rows]
    width = max(part.shape[2] for part in made)
    parts = [_wider(part, width) for part in made]
    return encode(even(np.concatenate(parts, axis=1)), first.fps)


def refuse_too_large(
    num_rows: int, num_columns: int, size: tuple[int, int], scale: int | None = None
) -> None:
    """Raise SamplingError where a comparison of videos of a size [H, W] is larger than players
    decode."""
    factor = factor_of(size[0], scale)
    tall = num_rows * (factor * size[0] + (1 + MAX_LINES) * LINE_PX + GAP_PX)
    wide = num_columns * (factor * size[1] + GAP_PX)
    if max(tall, wide) > MAX_SIDE:
        raise SamplingError(
            f"{num_rows} sentence(s) x {num_columns} video(s) make a picture of {wide}x{tall} px, "
            f"and players show {MAX_SIDE} at most: give fewer, a smaller --scale, or a folder "
            "(-o FOLDER/), which takes a file for each sentence"
        )


def contact_sheet(rows: Sequence[Row]) -> bytes:
    """Return a PNG with eight frames of each video, first and last among them, and its labels."""
    strips: list[Picture] = []
    for row in rows:
        strips_of_row = [_strip(label, video) for label, video in row.columns if video is not None]
        width = max(strip.shape[1] for strip in strips_of_row)
        strips += [_text(row.sentence, width, INK), *strips_of_row]
    width = max(strip.shape[1] for strip in strips)
    sheet = np.concatenate([_wider(strip[None], width)[0] for strip in strips])
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG")
    return buffer.getvalue()


def _row(row: Row, like: Video, scale: int | None) -> Frames:
    """[F, H, W, 3]: the sentence, the labels, the videos."""
    cells = [_cell(label, video, like, scale) for label, video in row.columns]
    videos = np.concatenate(cells, axis=2)
    title = _text(row.sentence, videos.shape[2], INK)
    return np.concatenate([np.broadcast_to(title, (len(videos), *title.shape)), videos], axis=1)


def _cell(label: str, video: Video | None, like: Video, scale: int | None) -> Frames:
    """Return a video under its label; without a video an empty place that says so."""
    frames = magnified(like.frames if video is None else video.frames, scale)
    if video is None:
        frames = np.full_like(frames, 235)
    top = _text(label if video else f"{label}: no clip", frames.shape[2], FAINT, num_lines=1)
    whole = np.concatenate([np.broadcast_to(top, (len(frames), *top.shape)), frames], axis=1)
    return np.pad(whole, [(0, 0), (0, GAP_PX), (0, GAP_PX), (0, 0)], constant_values=GROUND[0])


def _strip(label: str, video: Video) -> Picture:
    """Return a row of frames under a label; small ones enlarged, large ones reduced."""
    chosen = np.linspace(0, len(video.frames) - 1, min(NUM_THUMBNAILS, len(video.frames)))
    frames = video.frames[chosen.round().astype(int)]
    height, width = frames.shape[1:3]
    if height < THUMBNAIL_PX:
        frames = magnified(frames, -(-THUMBNAIL_PX // height))
    elif height > THUMBNAIL_PX:
        size = (round(width * THUMBNAIL_PX / height), THUMBNAIL_PX)
        frames = np.stack([np.asarray(Image.fromarray(one).resize(size)) for one in frames])
    padded = np.pad(frames, [(0, 0), (0, GAP_PX), (0, 2), (0, 0)], constant_values=GROUND[0])
    strip = np.concatenate(list(padded), axis=1)
    return np.concatenate([_text(label, strip.shape[1], FAINT, num_lines=1), strip])


def _text(text: str, width: int, ink: tuple[int, int, int], num_lines: int = MAX_LINES) -> Picture:
    """Return a bar [H, width, 3] with a text of `num_lines` lines at most; dots end a long one."""
    font = _font()
    room = max(1, int((width - GAP_PX) / font.getlength("n")))
    lines = textwrap.wrap(text, room, max_lines=num_lines, placeholder=" ...")
    bar = Image.new("RGB", (width, LINE_PX * len(lines) + 4), GROUND)
    draw = ImageDraw.Draw(bar)
    for number, line in enumerate(lines):
        draw.text((2, number * LINE_PX + 2), line, fill=ink, font=font)
    return np.asarray(bar)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib brings: Latin, Greek, Cyrillic, Arabic and more."""
    found = find_spec("matplotlib")
    for place in (found.submodule_search_locations or []) if found else []:
        file = Path(place) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(file, FONT_PX)
    return ImageFont.load_default(FONT_PX)


def _wider(frames: Frames, width: int) -> Frames:
    missing = width - frames.shape[2]
    sides = [(0, 0), (0, 0), (0, missing), (0, 0)]
    return np.pad(frames, sides, constant_values=GROUND[0]) if missing else frames


def _first(rows: Sequence[Row]) -> Video:
    return next(video for row in rows for _, video in row.columns if video is not None)
