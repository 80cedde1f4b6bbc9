"""The ONE path of teacher clips and student rollouts to the discriminator's input.

    teacher    finished video ---------------------------> |
    rollout    pictures: magnified, encoded and decoded as | -> canonical: rate, length, rhythm,
               the teacher's videos are                    |    shape, size, colour, one encoding,
                                                           |    8 bits

A teacher's video comes from an encoder. A rollout does not, and no later step hides that: after
both sides' 4:4:4 encoding at QP 20, a linear probe on compression traces still told the same
pictures apart in 91 % of cases, because one side was encoded twice and the other once. So a
rollout is encoded first (`as_delivered`). Then the same pictures give equal bytes, and the last
encoding covers the differences in the teacher's finer original (the probe:
afd/evaluation/metrics/leak_probe.py; the numbers: docs/lab-notes.md).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace

from afd.config import CanonicalParams, rows_and_columns
from afd.video.decode import ClipError, Converter, Frames, TimedFrame
from afd.video.encode import as_yuv, encode_yuv, through_h264
from afd.video.rhythm import held

LATE = Fraction(1, 10)  # of an instant: time bases round, 1/16 s is 62 or 63 ms in some files


@dataclass(frozen=True)
class CanonicalFormat:
    """The format of a canonical clip: uint8 [num_frames, rows, columns, 3], RGB, full range."""

    params: CanonicalParams
    num_frames: int
    frame_size: int | Sequence[int]  # px: a side, or rows and columns
    fps: int
    hold: int = 1  # frames that a picture is shown (rhythm.py)

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of a picture."""
        return rows_and_columns(self.frame_size)


def canonical_format(params: dict[str, Any]) -> CanonicalFormat:
    """Return the format that the params of a stage request give."""
    own = CanonicalParams.model_validate(params["canonical"])
    return CanonicalFormat(own, params["num_frames"], params["frame_size"], params["fps"])


def canonical(video: Iterable[TimedFrame], canon: CanonicalFormat) -> Frames:
    """Return the frames of a finished video as the discriminator's input, for both sides alike."""
    encoded = through_h264(_conformed(video, canon), canon.fps, qp=canon.params.qp)
    as_rgb = Converter()
    return np.stack([as_rgb(frame) for frame in encoded])


def canonical_mp4(video: Iterable[TimedFrame], canon: CanonicalFormat) -> bytes:
    """Return an mp4 file whose frames are those of `canonical`, to the bit."""
    return encode_yuv(_conformed(video, canon), canon.fps, qp=canon.params.qp)


def as_delivered(pictures: Frames, canon: CanonicalFormat) -> Iterator[TimedFrame]:
    """Yield a rollout, uint8 [F, rows, columns, 3], with the teacher's size and encoding."""
    size = canon.params.magnify
    magnified = pictures.repeat(size, axis=1).repeat(size, axis=2)
    frames = list(as_yuv(magnified, canon.fps))
    for number, frame in enumerate(through_h264(frames, canon.fps, canon.params.crf)):
        yield TimedFrame(frame, Fraction(number, canon.fps))


def conform(video: Iterable[TimedFrame], canon: CanonicalFormat) -> Frames:
    """Return the pictures that `canonical` encodes, for people and metrics.

    Errors: ClipError where `canon.params` refuses, and for a video smaller than the student's.
    """
    as_rgb = Converter()
    return np.stack([as_rgb(frame) for frame in _conformed(video, canon)])


def _conformed(video: Iterable[TimedFrame], canon: CanonicalFormat) -> list[av.VideoFrame]:
    """Return frames of the student's rate, length, shape and size, as `canon.params` permits.

    All steps are in YUV: a detour through RGB costs a third of the time of the whole path.
    """
    frames: list[av.VideoFrame] = []
    scaled: Converter | None = None
    for frame, count in _resampled(video, canon.fps):
        if scaled is None:
            size = _covering(frame.width, frame.height, canon)
            scaled = Converter(*size, f"yuv{canon.params.chroma}p")
        if count:
            frames += [_cropped(scaled.frame(frame), *canon.sides)] * count
    return [frames[number] for number in held(_window(len(frames), canon), canon.hold)]


def _resampled(video: Iterable[TimedFrame], fps: int) -> Iterator[tuple[Any, int]]:
    """Yield each frame and the number of instants k / fps of the new rate while it is displayed."""
    done, previous, before = 0, None, None
    for timed in video:
        if previous is not None:
            due = _instants(timed.time, fps)
            yield previous.frame, due - done
            done, before = due, previous
        previous = timed
    if previous is not None:  # the last frame stays as long as the one before it, or 1 / fps
        step = previous.time - before.time if before else Fraction(1, fps)
        end = previous.time + (step or Fraction(1, fps))
        yield previous.frame, max(1 if not done else 0, _instants(end, fps) - done)


def _instants(time: Fraction, fps: int) -> int:
    """Return how many of 0, 1 / fps, 2 / fps, ... lie before `time`."""
    late = time.denominator * LATE.numerator  # whole numbers: a fifth of the time of fractions
    parts = time.denominator * LATE.denominator
    return -((late - time.numerator * fps * LATE.denominator) // parts)


def _window(found: int, canon: CanonicalFormat) -> list[int]:
    """Return the indices of the `found` frames at the new rate that make the clip."""
    wanted, own = canon.num_frames, canon.params
    if found > wanted and own.longer != "refuse":
        start = 0 if own.longer == "first" else (found - wanted) // 2 // canon.hold * canon.hold
        return list(range(start, start + wanted))
    if found < wanted and own.shorter != "refuse":
        last = found - 1
        return [k % found if own.shorter == "loop" else min(k, last) for k in range(wanted)]
    if found != wanted:
        field = "longer" if found > wanted else "shorter"
        raise ClipError(
            f"{found} frames at {canon.fps} fps, the student's clips have {wanted}; "
            f"canonical.{field} says refuse"
        )
    return list(range(wanted))


def _covering(width: int, height: int, canon: CanonicalFormat) -> tuple[int, int]:
    """Return the smallest size that covers the student's frame, width first."""
    rows, columns = canon.sides
    if width * rows != height * columns and canon.params.aspect == "refuse":
        shape = "square" if rows == columns else f"{columns}:{rows}"
        raise ClipError(f"{width}x{height} px is not {shape}; canonical.aspect says refuse")
    if width < columns or height < rows:
        least = f"{rows} px a side" if rows == columns else f"{columns}x{rows} px"
        raise ClipError(f"{width}x{height} px; it must be at least {least}")
    if width * rows >= height * columns:
        return round(width * rows / height), rows
    return columns, round(height * columns / width)


def _cropped(frame: av.VideoFrame, rows: int, columns: int) -> av.VideoFrame:
    """Return the middle of a frame, cut at whole chroma cells."""
    if (frame.height, frame.width) == (rows, columns):
        return frame
    top, left = (frame.height - rows) // 2, (frame.width - columns) // 2
    if frame.format.name == "yuv444p":
        planes = frame.to_ndarray()[:, top : top + rows, left : left + columns]
        return _of_planes(list(planes), "yuv444p")
    top, left = top // 2 * 2, left // 2 * 2
    planes = [
        _rows(plane)[top // cell : (top + rows) // cell, left // cell : (left + columns) // cell]
        for plane, cell in zip(frame.planes, (1, 2, 2), strict=True)
    ]
    return _of_planes(planes, "yuv420p")


def _rows(plane: VideoPlane) -> Frames:
    rows = np.frombuffer(memoryview(plane), np.uint8)  # pyright: ignore[reportArgumentType]
    return rows.reshape(plane.height, plane.line_size)[:, : plane.width]


def _of_planes(planes: list[Frames], pixels: str) -> av.VideoFrame:
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pixels)
    for plane, rows in zip(frame.planes, planes, strict=True):
        whole = np.zeros((plane.height, plane.line_size), np.uint8)
        whole[:, : plane.width] = rows
        plane.update(whole.tobytes())
    frame.colorspace, frame.color_range = Colorspace.ITU709, ColorRange.MPEG
    return frame
