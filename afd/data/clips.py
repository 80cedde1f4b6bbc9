"""Clips from bytes that anybody may have written, checked until they can be believed.

A video that decodes is not sound: 40 flipped bytes gave all 49 frames without an error, half a
file gave 11 of 49. So the header is read and held against limits before a frame is decoded, the
decoder explodes on damage, and what it gives is counted against what the file declares. What is
left (a flip that decodes) is caught by the sha256 of whoever stored the bytes.

    hostile bytes -> decode -> uint8 frames -> canonical -> what stages see
"""

import hashlib
import io
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace

from afd.data.encoding import SCALER

Frames = npt.NDArray[np.uint8]

CODECS = ("h264", "hevc", "vp9", "av1")
PIXEL_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
# H.273 matrix coefficients -> swscale. Untagged (2) is read as BT.709: what vendors mean by it.
MATRICES = {
    1: Colorspace.ITU709,
    2: Colorspace.ITU709,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
}
HDR_TRANSFER = (16, 18)  # PQ and HLG, H.273


class ClipError(ValueError):
    """Bytes that are not a sound clip, and why."""


@dataclass(frozen=True)
class Limits:
    """What a header may ask for before anything is decoded: 200 KB can hold 12 GB of RGB."""

    max_bytes: int = 256 * 2**20
    max_pixels: int = 1920 * 1088  # a frame
    max_frames: int = 1024


@dataclass(frozen=True)
class Clip:
    """Decoded RGB frames uint8 [F, H, W, 3] and their rate."""

    frames: Frames
    fps: Fraction


LIMITS = Limits()


def decode(source: bytes | BinaryIO, limits: Limits = LIMITS) -> Clip:
    """The whole clip, or ClipError with the reason; one thread, reads nothing but the given bytes.

    Refused: what is not mp4/mov, no or several video streams, another codec, more than 8 bits,
    HDR, rotation, non-square pixels, variable rate, sizes beyond `limits`, damaged or missing
    frames. Sound tracks are ignored.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    _check_start(file, limits)
    try:
        with av.open(
            file, "r", format="mov", options={"err_detect": "explode"}, metadata_errors="replace"
        ) as container:
            stream = _only_video(container)
            declared = _check_header(stream, limits)
            return _decode_frames(container, stream, declared, limits)
    except (av.error.FFmpegError, EOFError, OverflowError, MemoryError) as error:
        raise ClipError(f"damaged video: {str(error) or type(error).__name__}") from error


def frames_sha256(frames: Frames) -> str:
    """Identity of a clip's content: encoders' bytes change with version and threads, this not."""
    head = f"{frames.dtype}{frames.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(frames).tobytes()).hexdigest()


def canonical(frames: Frames, frame_size: int, num_frames: int) -> npt.NDArray[np.float32]:
    """The ONE path that teacher clips and student samples take: [F, H, W, 3] -> [F, 3, S, S].

    The first `num_frames` frames, the central square, area downsampling, 8 bits a channel, then
    [0, 1]. A clip of that shape is unchanged. Errors: ClipError for shorter or smaller clips,
    which would have to be invented.
    """
    have, height, width, _ = frames.shape
    side = min(height, width)
    if have < num_frames:
        raise ClipError(f"{have} frames, the student's clips have {num_frames}")
    if side < frame_size:
        raise ClipError(f"{width}x{height} px, smaller than the student's {frame_size}")
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[:num_frames, top : top + side, left : left + side]
    if side % frame_size == 0:
        cell = side // frame_size
        shape = (num_frames, frame_size, cell, frame_size, cell, 3)
        small = square.reshape(shape).mean(axis=(2, 4), dtype=np.float32)
    elif side == frame_size:
        small = square.astype(np.float32)
    else:
        size = (frame_size, frame_size)
        resized = [
            cv2.resize(f.astype(np.float32), size, interpolation=cv2.INTER_AREA) for f in square
        ]
        small = np.stack(resized)
    eight_bits = np.rint(small) / np.float32(255)
    return np.ascontiguousarray(eight_bits.transpose(0, 3, 1, 2))


def _check_start(file: BinaryIO, limits: Limits) -> None:
    """Size and signature, before a demuxer sees anything."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(64)
    file.seek(0)
    if not size:
        raise ClipError("empty: 0 bytes")
    if size > limits.max_bytes:
        raise ClipError(f"{size} bytes, at most {limits.max_bytes}")
    if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        raise ClipError(f"not an mp4: it begins with {head[:32]!r}")


def _only_video(container: av.container.InputContainer) -> av.VideoStream:
    streams = list(container.streams.video)
    if len(streams) != 1:
        others = ", ".join(s.type for s in container.streams if s.type != "video") or "nothing"
        raise ClipError(f"{len(streams)} video streams (and {others}), expected 1")
    return streams[0]


def _check_header(stream: av.VideoStream, limits: Limits) -> int:
    """The number of frames that the file declares, once its header is inside the policy."""
    context = stream.codec_context
    problems: list[str] = []
    if context.name not in CODECS:
        problems.append(f"codec {context.name}, known are {', '.join(CODECS)}")
    if context.pix_fmt not in PIXEL_FORMATS:
        problems.append(f"pixel format {context.pix_fmt}, only 8-bit YUV is read")
    if not 0 < context.width * context.height <= limits.max_pixels:
        problems.append(f"{context.width}x{context.height} px, at most {limits.max_pixels} a frame")
    if context.colorspace not in MATRICES:
        problems.append(f"colour matrix {context.colorspace} (H.273), only BT.709 and BT.601")
    if context.color_trc in HDR_TRANSFER:
        problems.append(f"HDR transfer {context.color_trc} (H.273)")
    if stream.sample_aspect_ratio not in (None, 0, 1):
        problems.append(f"pixels of aspect {stream.sample_aspect_ratio}, only square ones")
    if not stream.average_rate:
        problems.append("no frame rate")
    declared = stream.frames
    if not declared and stream.duration and stream.time_base and stream.average_rate:
        declared = round(stream.duration * stream.time_base * stream.average_rate)  # fragmented
    if not 0 < declared <= limits.max_frames:
        problems.append(f"{declared} frames declared, 1 to {limits.max_frames} are read")
    if problems:
        raise ClipError("; ".join(problems))
    return declared


def _decode_frames(
    container: av.container.InputContainer, stream: av.VideoStream, declared: int, limits: Limits
) -> Clip:
    context = stream.codec_context
    context.thread_count, context.thread_type = 1, "NONE"
    context.options = {"err_detect": "explode", "max_pixels": str(limits.max_pixels)}
    pictures: list[Frames] = []
    times: list[int] = []
    for frame in container.decode(stream):
        if len(pictures) == declared:
            raise ClipError(f"more than the declared {declared} frames")
        if (frame.width, frame.height) != (context.width, context.height):
            raise ClipError(
                f"frame {len(pictures)} is {frame.width}x{frame.height}, "
                f"the header says {context.width}x{context.height}"
            )
        if frame.is_corrupt or frame.pts is None:
            raise ClipError(f"frame {len(pictures)} is damaged")
        if frame.rotation:
            raise ClipError(f"rotated by {frame.rotation} degrees; rotate it before")
        times.append(frame.pts)
        pictures.append(_to_rgb(frame))
    if len(pictures) != declared:
        raise ClipError(f"{len(pictures)} frames decoded, {declared} declared: cut short?")
    intervals = np.diff(times)
    if len(intervals) and intervals.max() > 1.5 * intervals.min():
        raise ClipError(
            f"variable frame rate: intervals of {intervals.min()} to {intervals.max()} ticks"
        )
    return Clip(np.stack(pictures), Fraction(stream.average_rate or 0))


def _to_rgb(frame: av.VideoFrame) -> Frames:
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    return frame.reformat(
        format="rgb24",
        src_colorspace=MATRICES[frame.colorspace],
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=SCALER,
        threads=1,
    ).to_ndarray()
