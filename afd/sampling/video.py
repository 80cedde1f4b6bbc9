"""Videos as values: frames, sentence and seed; they save themselves and show in a notebook."""

import base64
import html
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from afd.sampling.errors import SamplingError
from afd.video.encode import encode

Frames = npt.NDArray[np.uint8]  # [F, H, W, 3], RGB
MIN_HEIGHT = 256  # px that a saved video has at least: a ball of 4 px is seen in no player


@dataclass(frozen=True, eq=False)
class Video:
    """A clip that a student made of a sentence, or that a teacher filmed of it."""

    frames: Frames
    fps: int
    sentence: str
    label: str  # who made it, e.g. "round 7"
    seed: int | None = None  # None for a teacher's

    def mp4(self, scale: int | None = None) -> bytes:
        """H.264 in mp4; equal frames give equal bytes.

        `scale` magnifies by a whole factor, nearest neighbour; None: to 256 px of height at least.
        """
        return encode(even(magnified(self.frames, scale)), self.fps)

    def save(self, path: str | Path, scale: int | None = None) -> Path:
        """Write the mp4, over an earlier one; raises SamplingError for a path it cannot write."""
        return write(mp4_path(path), self.mp4(scale))

    def _repr_html_(self) -> str:
        """Return the playing video as HTML, with its sentence below."""
        data = base64.b64encode(self.mp4()).decode()
        seed = "" if self.seed is None else f", seed {self.seed}"
        height = max(MIN_HEIGHT, min(480, self.frames.shape[1]))
        return (
            '<figure style="display:inline-block;margin:4px;vertical-align:top">'
            f'<video controls autoplay loop muted playsinline height="{height}" '
            f'src="data:video/mp4;base64,{data}"></video>'
            f'<figcaption style="max-width:{height * 2}px">{html.escape(self.sentence)}<br>'
            f"{html.escape(self.label)}{seed}</figcaption></figure>"
        )

    def __repr__(self) -> str:
        frames, height, width = self.frames.shape[:3]
        seed = "" if self.seed is None else f", seed {self.seed}"
        return (
            f"<Video of {self.sentence!r} by {self.label}{seed}: {frames} frames of "
            f"{width}x{height} at {self.fps} fps>"
        )


class Videos(list[Video]):
    """Several videos; a notebook shows them side by side."""

    def _repr_html_(self) -> str:
        return "<div>" + "".join(video._repr_html_() for video in self) + "</div>"

    def save(self, folder: str | Path, scale: int | None = None) -> list[Path]:
        """Write an mp4 each into a folder, as 01.mp4, 02.mp4, ...; gives their paths."""
        place = Path(folder)
        make_folder(place)
        return [
            video.save(place / f"{number:02d}.mp4", scale)
            for number, video in enumerate(self, start=1)
        ]


def magnified(frames: Frames, scale: int | None = None) -> Frames:
    """Frames enlarged by a whole factor, nearest neighbour; None: to `MIN_HEIGHT` at least."""
    factor = factor_of(frames.shape[1], scale)
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def factor_of(height: int, scale: int | None = None) -> int:
    """Return the enlargement of a video of this height; raises SamplingError."""
    factor = max(1, -(-MIN_HEIGHT // height)) if scale is None else scale
    if factor < 1:
        raise SamplingError(f"--scale {scale}: must be a whole number of at least 1")
    return factor


def even(frames: Frames) -> Frames:
    """Frames padded to even height and width, as yuv420p needs."""
    height, width = frames.shape[1:3]
    if height % 2 == width % 2 == 0:
        return frames
    return np.pad(frames, [(0, 0), (0, height % 2), (0, width % 2), (0, 0)], mode="edge")


def mp4_path(path: str | Path) -> Path:
    """Return the path of a video; raises SamplingError for another suffix than .mp4."""
    if Path(path).suffix.lower() != ".mp4":
        raise SamplingError(f"{path}: videos are written as mp4: write {Path(path).stem}.mp4")
    return Path(path)


def make_folder(folder: Path) -> None:
    """Make a folder for output; raises SamplingError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None


def refuse_unwritable(path: Path) -> None:
    """Raise SamplingError for a place that no file can be written to, before one is made."""
    at = path.absolute().parent
    while not at.exists():
        at = at.parent
    if not at.is_dir() or not os.access(at, os.W_OK) or path.is_dir():
        reason = "is a folder" if path.is_dir() else f"{at} is no folder that can be written"
        raise SamplingError(f"{path}: {reason}; choose another place for the output")


def write(path: Path, content: bytes) -> Path:
    """Write a file for a person; raises SamplingError where that cannot be done."""
    make_folder(path.parent)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def _unwritable(path: Path, error: OSError) -> SamplingError:
    return SamplingError(
        f"{path}: cannot be written: {error.strerror}; choose another place for the output"
    )
