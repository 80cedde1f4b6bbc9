"""Films of a round: base, student and teacher side by side, labels and sentence burnt in.

The evaluation of a round has base and student in samples.mp4, all prompts one after another; the
teacher's clips of the same prompts are among the held-out clips. Small frames are enlarged by whole
factors, nearest neighbour: a pixel of the film is a pixel that was measured.
"""

import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from afd.artifacts import Artifact
from afd.config.values import rows_and_columns
from afd.video.contact_sheets import GAP_PX, MIN_SIDE_PX
from afd.video.decode import decode
from afd.video.encode import encode

Frames = npt.NDArray[np.uint8]  # [F, H, W, 3]

PANEL_PX = 192  # height of a panel at least: 12 times the pocket world's 16 px
MAX_PANEL_PX = 480  # width at most: larger frames are scaled down
MARGIN_PX, LABEL_PX, LINE_PX, FONT_PX = 8, 34, 28, 20
GROUND, INK, EMPTY = (20, 22, 26), (240, 242, 245), (44, 48, 55)
COLOURS = {"base": (242, 166, 90), "student": (120, 182, 245), "teacher": (116, 206, 146)}
HOLD_S = 0.6  # the last frame stays, so that a loop's end is seen
CRF = 24  # 110 kB a film of the pocket world, most of it the teacher's grain


class Panel(NamedTuple):
    """One column of a film; without frames it says why."""

    role: str
    label: str
    frames: Frames | None
    reason: str = ""


def sides_of(evaluation: Artifact, num_frames: int) -> list[tuple[str, Frames, Frames]]:
    """Prompt, base and student of every prompt that a round's evaluation shows, as evaluated.

    Empty where its film has another geometry, as of a campaign with longer clips.
    """
    prompts = json.loads(evaluation.file("summary.json").read_bytes()).get("filmstrip_prompts", [])
    height, width = rows_and_columns(evaluation.manifest.params["frame_size"])
    factor = max(1, -(-MIN_SIDE_PX // height))
    film = decode(evaluation.file("samples.mp4").read_bytes()).frames
    wide = factor * width
    columns = (0, wide + 2 * GAP_PX)
    if len(film) != num_frames * len(prompts) or film.shape[2] < columns[1] + wide:
        return []
    base, student = (
        _reduced(film[:, : factor * height, start : start + wide], factor) for start in columns
    )
    return [
        (str(prompt), base[at : at + num_frames], student[at : at + num_frames])
        for prompt, at in zip(prompts, range(0, len(film), num_frames), strict=True)
    ]


def teacher_clips(
    clips: Artifact, prompts: Sequence[str], shape: tuple[int, int, int]
) -> dict[str, Frames]:
    """Prompt -> the teacher's first clip of it, in `shape` (frames, height, width)."""
    import pyarrow.parquet as pq  # without torch, which afd.clips.shards needs

    columns = ["prompt", "offset", "num_bytes"]
    table = pq.ParquetFile(clips.file("clips.parquet"))  # `read_table` imports pandas: 1.5 s
    rows = cast("list[dict[str, Any]]", table.read(columns).to_pylist())
    found: dict[str, Frames] = {}
    with clips.file("clips.tar").open("rb") as tar:
        for row in rows:
            if row["prompt"] in prompts and row["prompt"] not in found:
                tar.seek(row["offset"])
                found[row["prompt"]] = _fitted(decode(tar.read(row["num_bytes"])).frames, shape)
    return found


def film(prompt: str, panels: Sequence[Panel], fps: int) -> bytes:
    """One mp4 with the panels from left to right, each under its label, the prompt below."""
    shape = next(panel.frames.shape for panel in panels if panel.frames is not None)
    height, width = panel_size(shape[1], shape[2])
    total = len(panels) * width + (len(panels) + 1) * MARGIN_PX
    lines = _wrapped(prompt, total - 2 * MARGIN_PX)
    canvas = Image.new("RGB", _even(total, LABEL_PX + height + LINE_PX * len(lines) + 12), GROUND)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((MARGIN_PX, LABEL_PX + height + 5 + number * LINE_PX), line, INK, _font(FONT_PX))
    places = [MARGIN_PX + number * (width + MARGIN_PX) for number in range(len(panels))]
    for left, panel in zip(places, panels, strict=True):
        draw.text((left, 5), panel.label, COLOURS[panel.role], _font(FONT_PX, bold=True))
        draw.rectangle((left, LABEL_PX, left + width - 1, LABEL_PX + height - 1), EMPTY)
        if panel.frames is None:
            draw.text((left + 12, LABEL_PX + 12), panel.reason, INK, _font(16))
    frames = np.repeat(np.asarray(canvas)[None], shape[0], axis=0)
    for left, panel in zip(places, panels, strict=True):
        if panel.frames is not None:
            panel_frames = _enlarged(panel.frames, height, width)
            frames[:, LABEL_PX : LABEL_PX + height, left : left + width] = panel_frames
    still = np.repeat(frames[-1:], round(HOLD_S * fps), axis=0)
    return encode(np.concatenate([frames, still]), fps, CRF)


def panel_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a panel for frames of this size."""
    factor = max(1, -(-PANEL_PX // height))
    if factor > 1 or width <= MAX_PANEL_PX:
        return factor * height, factor * width
    return round(height * MAX_PANEL_PX / width), MAX_PANEL_PX


def _reduced(frames: Frames, factor: int) -> Frames:
    """Return the frames before enlargement, as means over blocks, free of the codec's noise."""
    num, height, width, _ = frames.shape
    blocks = frames.reshape(num, height // factor, factor, width // factor, factor, 3)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def _fitted(frames: Frames, shape: tuple[int, int, int]) -> Frames:
    """Frames [F, H, W, 3] in another number and size, spread evenly in time, area in space."""
    chosen = frames[np.linspace(0, len(frames) - 1, shape[0]).round().astype(int)]
    return _resized(chosen, shape[1], shape[2], Image.Resampling.BOX)


def _enlarged(frames: Frames, height: int, width: int) -> Frames:
    if height % frames.shape[1] == 0 and width % frames.shape[2] == 0:
        rows = frames.repeat(height // frames.shape[1], axis=1)
        return rows.repeat(width // frames.shape[2], axis=2)
    return _resized(frames, height, width, Image.Resampling.BOX)


def _resized(frames: Frames, height: int, width: int, how: Image.Resampling) -> Frames:
    if frames.shape[1:3] == (height, width):
        return frames
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), how)) for f in frames])


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of `text` that fit into `width` px, three at most."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font(FONT_PX).getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == 3:
            lines[-1] += " \u2026"
            break
        else:
            lines.append(word)
    return [line for line in lines if line]


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib brings: Latin, Greek and Cyrillic."""
    found = importlib.util.find_spec("matplotlib")  # not imported: 0.5 s
    folder = Path(next(iter((found and found.submodule_search_locations) or [""])))
    file = folder / "mpl-data" / "fonts" / "ttf" / f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(file, size) if file.exists() else ImageFont.load_default(size)


def _even(width: int, height: int) -> tuple[int, int]:
    """yuv420p needs even sides."""
    return width + width % 2, height + height % 2
