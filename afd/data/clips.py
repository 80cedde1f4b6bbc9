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
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace

from afd.encoding import SCALER

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
class ClipLimits:
    """What a header may ask for before anything is decoded: 200 KB can hold 12 GB of RGB."""

    max_bytes: int = 256 * 2**20
    max_frames: int = 1000
    max_side: int = 4096
    max_pixels: int = 500_000_000  # width x height x frames: 1.5 GB as RGB


@dataclass(frozen=True)
class Clip:
    """Decoded RGB frames uint8 [F, H, W, 3] and their rate."""

    frames: Frames
    fps: Fraction


LIMITS = ClipLimits()


def decode(source: bytes | BinaryIO, limits: ClipLimits = LIMITS) -> Clip:
    """The whole clip, or ClipError with the reason; one thread, reads nothing but the given bytes.

    Refused: what is not mp4/mov, no or several video streams, another codec, more than 8 bits,
    HDR, rotation, non-square pixels, variable rate, sizes beyond `limits`, damaged or missing
    frames. Sound tracks are ignored.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    _check_boxes(file, limits)
    try:
        with av.open(
            file, "r", format="mov", options={"err_detect": "explode"}, metadata_errors="replace"
        ) as container:
            stream = _only_video(container)
            declared = _check_header(stream, limits)
            return _decode_frames(container, stream, declared, limits)
    except (av.error.FFmpegError, EOFError, OverflowError, MemoryError) as error:
        raise ClipError(f"damaged: {str(error) or type(error).__name__}") from error


def frames_sha256(frames: Frames) -> str:
    """Identity of a clip's content: encoders' bytes change with version and threads, this not."""
    head = f"{frames.dtype}{frames.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(frames).tobytes()).hexdigest()


def canonical(frames: Frames, frame_size: int, num_frames: int) -> npt.NDArray[np.float32]:
    """The ONE path that teacher clips and student samples take: [F, H, W, 3] -> [F, 3, S, S].

    Exact area averages, pixels as they are stored (no gamma), rounded to 8 bits a channel, then
    [0, 1]: a clip of that size already is unchanged, so no step tells the two sides apart.
    Errors: ClipError for another length, and for a clip that is not square or is smaller.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ClipError(f"frames must be uint8 [F, H, W, 3], not {frames.dtype} {frames.shape}")
    found, height, width, _ = frames.shape
    if found != num_frames:
        raise ClipError(f"{found} frames, the student's clips have {num_frames}")
    if height != width or height < frame_size:
        raise ClipError(f"{width}x{height} px; it must be square and at least {frame_size} px")
    if height % frame_size == 0:
        cell = height // frame_size
        # Whole numbers, rows first: 5 times as fast as a mean over both axes of cells at once.
        rows = frames.reshape(found, frame_size, cell, width * 3).sum(axis=2, dtype=np.uint32)
        means = rows.reshape(found, frame_size, frame_size, cell, 3).sum(axis=3) / cell**2
    else:
        weight = _area_weights(height, frame_size)
        means = np.einsum("ah,fhwc,bw->fabc", weight, frames, weight, optimize=True)
    eight_bits = np.rint(means).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(eight_bits.transpose(0, 3, 1, 2))


def _area_weights(source: int, target: int) -> npt.NDArray[np.float64]:
    """[target, source] share of each source pixel in each target pixel; rows sum to 1."""
    edges = np.arange(target + 1) * (source / target)
    start, stop = edges[:-1, None], edges[1:, None]
    pixel = np.arange(source)[None]
    overlap = np.minimum(stop, pixel + 1) - np.maximum(start, pixel)
    return np.clip(overlap, 0.0, None) * (target / source)


def _check_boxes(file: BinaryIO, limits: ClipLimits) -> None:
    """Size, signature, and whether every top-level box ends inside the file, before any demuxer.

    A demuxer reads what is there and keeps quiet about the rest of a file that was cut.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(32)
    if not size:
        raise ClipError("empty: 0 bytes")
    if size > limits.max_bytes:
        raise ClipError(f"{size} bytes, at most {limits.max_bytes}")
    if head[4:8] != b"ftyp":
        raise ClipError(f"not an mp4: it begins with {head!r}")
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:  # a 64-bit length follows the name
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:  # up to the end
            length = size - place
        if length < 8 or place + length > size:
            raise ClipError(
                f"damaged: box {head[4:8]!r} at byte {place} claims {length} bytes, the file has "
                f"{size - place} left; cut short?"
            )
        place += length
    file.seek(0)


def _only_video(container: InputContainer) -> av.VideoStream:
    streams = list(container.streams.video)
    if len(streams) != 1:
        others = ", ".join(s.type for s in container.streams if s.type != "video") or "nothing"
        raise ClipError(f"{len(streams)} video streams (and {others}), expected 1")
    return streams[0]


def _check_header(stream: av.VideoStream, limits: ClipLimits) -> int:
    """The number of frames that the file declares, once its header is inside the policy."""
    if not stream.codec_context:  # PyAV makes none for a codec that it does not know
        raise ClipError(f"unknown codec; known are {', '.join(CODECS)}")
    context = stream.codec_context
    problems: list[str] = []
    if context.name not in CODECS:
        problems.append(f"codec {context.name}, known are {', '.join(CODECS)}")
    if context.pix_fmt not in PIXEL_FORMATS:
        problems.append(f"pixel format {context.pix_fmt}, only 8-bit YUV is read")
    width, height = context.width, context.height
    if not (0 < width <= limits.max_side and 0 < height <= limits.max_side):
        problems.append(f"{width}x{height} px, 1 to {limits.max_side} a side are read")
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
    if declared * width * height > limits.max_pixels:
        problems.append(
            f"{declared} frames of {width}x{height}, at most {limits.max_pixels} px in all"
        )
    if problems:
        raise ClipError("; ".join(problems))
    return declared


def _decode_frames(
    container: InputContainer,
    stream: av.VideoStream,
    declared: int,
    limits: ClipLimits,
) -> Clip:
    context = stream.codec_context
    context.thread_count, context.thread_type = 1, "NONE"
    context.options = {"err_detect": "explode", "max_pixels": str(limits.max_side**2)}
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
    fps = Fraction(stream.average_rate or 0)
    intervals = np.diff(times)
    # Time bases round: a constant rate may alternate between two neighbouring tick counts.
    allowed = 1 + Fraction(1, 100) / fps / Fraction(stream.time_base or 1)
    if len(intervals) and np.ptp(intervals) > allowed:
        raise ClipError(
            f"variable frame rate (intervals of {intervals.min()} to {intervals.max()} ticks); "
            "re-encode at a fixed rate"
        )
    return Clip(np.stack(pictures), fps)


def _to_rgb(frame: av.VideoFrame) -> Frames:
    if frame.colorspace not in MATRICES:  # the stream may say another than the header
        raise ClipError(f"colour matrix {frame.colorspace} (H.273), only BT.709 and BT.601")
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    shown = frame.reformat(
        format="rgb24",
        src_colorspace=MATRICES[frame.colorspace],
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=SCALER,
        threads=1,
    )
    return shown.to_ndarray().astype(np.uint8, copy=False)
