"""Decoding of mp4 files from untrusted sources.

A file that decodes may still be damaged: 40 flipped bytes gave all 49 frames without an error, half
a file gave 11 of 49. So the header is checked against limits before a frame is decoded, the decoder
stops at damage, and the number of frames is compared with the declared one. A flipped byte that
still decodes is caught by the sha256 of the stored file.

    untrusted bytes -> timed frames, one at a time -> canonical.py -> the discriminator's input
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from afd.config.rules import MAX_FRAMES, MAX_PIXELS, MAX_SECONDS, MAX_SIDE
from afd.video.encode import SCALER
from afd.video.mp4_boxes import ClipError, Outline, outline

__all__ = [
    "Clip",
    "ClipError",
    "ClipLimits",
    "decode",
    "open_clip",
]

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
UNTAGGED = 2  # H.273
HDR_TRANSFER = (16, 18)  # PQ and HLG, H.273
SQUARE_PIXELS = "ffmpeg -i IN -vf 'scale=trunc(iw*sar/2)*2:ih,setsar=1' OUT converts it"
SLOWEST_FPS, FASTEST_FPS = 1, 240


@dataclass(frozen=True)
class ClipLimits:
    """Limits of a header, checked before anything is decoded: 200 KB can hold 12 GB of RGB."""

    max_bytes: int = 256 * 2**20
    max_frames: int = MAX_FRAMES
    max_side: int = MAX_SIDE
    max_pixels: int = MAX_PIXELS
    max_seconds: float = MAX_SECONDS


@dataclass(frozen=True)
class Clip:
    """Decoded RGB frames uint8 [F, H, W, 3] and their (mean) rate."""

    frames: Frames
    fps: Fraction


class TimedFrame(NamedTuple):
    """A decoded frame and its time, in seconds from the first one."""

    frame: av.VideoFrame
    time: Fraction


LIMITS = ClipLimits()


@dataclass(frozen=True)
class Header:
    """Properties of the file's only video stream, within the limits."""

    width: int
    height: int
    fps: Fraction  # mean
    num_declared: int
    codec: str
    pixel_format: str
    has_sound: bool
    outline: Outline


@dataclass
class OpenClip:
    """A clip with a checked header; the other fields grow with the frames."""

    header: Header
    num_frames: int = 0
    num_hidden: int = 0  # frames that the file's edit list hides, e.g. before time 0
    is_variable_rate: bool = False
    colours: set[str] = field(default_factory=set[str])  # as frames were read: colour_of
    _container: InputContainer | None = None
    _limits: ClipLimits = LIMITS

    def frames(self) -> Iterator[TimedFrame]:
        """Yield each frame once, in order of time; raise ClipError at the first damaged one.

        Memory holds one frame. The clip is known to be whole after the last frame only.
        """
        if self._container is None:
            raise ValueError("the clip is closed")
        with _ffmpeg_errors():
            yield from self._frames(self._container)

    def _frames(self, container: InputContainer) -> Iterator[TimedFrame]:
        stream, header = container.streams.video[0], self.header
        tick = Fraction(stream.time_base or 1)
        # Time bases round: a constant rate may alternate between two neighbouring tick counts.
        # In whole ticks: fractions of a second were a tenth of the time of a clip of 64 px.
        allowed = int(1 + Fraction(1, 100) / header.fps / tick)
        latest = int(Fraction(self._limits.max_seconds) / tick)
        num_packets = num_hidden = 0
        start, last, step = 0, -1, 0
        for packet in container.demux(stream):
            if packet.size:
                num_packets += 1
                num_hidden += packet.is_discard  # by an edit list
            for frame in packet.decode():
                _check_frame(frame, self.num_frames, header)
                pts = int(frame.pts or 0)
                if self.num_frames == 0:
                    start = pts
                elif pts <= last:
                    raise ClipError(f"frame {self.num_frames} comes before the one in front of it")
                else:
                    step = step or pts - last
                    self.is_variable_rate |= abs(pts - last - step) > allowed
                if pts - start > latest:
                    raise ClipError(f"longer than {self._limits.max_seconds:g} s")
                if self.num_frames >= header.num_declared:
                    raise ClipError(f"more than the declared {header.num_declared} frames")
                self.num_frames, last = self.num_frames + 1, pts
                self.colours.add(colour_of(frame))
                yield TimedFrame(frame, (pts - start) * tick)
        self.num_hidden = num_hidden
        # An edit list may hide frames; what is missing otherwise was cut away or lost.
        if header.num_declared not in (self.num_frames, self.num_frames + num_hidden):
            raise ClipError(
                f"{self.num_frames} frames decoded, {header.num_declared} declared: cut short?"
            )
        if not self.num_frames:
            raise ClipError("no frame is shown")


@contextlib.contextmanager
def open_clip(source: bytes | BinaryIO, limits: ClipLimits = LIMITS) -> Iterator[OpenClip]:
    """Open a clip and check its header, in one thread, from the given bytes alone.

    Raises ClipError for a file that is not mp4/mov, no or several video streams, another codec,
    more than 8 bits, HDR, rotation, non-square pixels and sizes beyond `limits`; `frames` raises
    ClipError for damaged or missing frames. Sound tracks are ignored. A clip of variable rate is
    read with its true times.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    outlined = outline(file, limits.max_bytes)
    with contextlib.ExitStack() as stack:
        with _ffmpeg_errors():
            container = stack.enter_context(
                av.open(
                    file,
                    "r",
                    format="mov",
                    options={"err_detect": "explode"},
                    metadata_errors="replace",
                )
            )
            header = _check_header(container, limits, outlined)
            context = container.streams.video[0].codec_context
            context.thread_count, context.thread_type = 1, "NONE"
            context.options = {"err_detect": "explode", "max_pixels": str(limits.max_side**2)}
        yield OpenClip(header, _container=container, _limits=limits)


def decode(source: bytes | BinaryIO, limits: ClipLimits = LIMITS) -> Clip:
    """Return the whole clip as RGB at its own size; raise ClipError as `open_clip` does."""
    with open_clip(source, limits) as clip:
        as_rgb = Converter()
        pictures = [as_rgb(timed.frame) for timed in clip.frames()]
        return Clip(np.stack(pictures), clip.header.fps)


class Converter:
    """Converter of one clip's frames to another size or format by their own matrix and range.

    YUV becomes BT.709 of limited range, RGB full range. Sizes are exact area averages (to the
    rounding of 8 bits) over pixels as they are stored, of each plane on its own grid.
    """

    def __init__(
        self, width: int | None = None, height: int | None = None, pixels: str = "rgb24"
    ) -> None:
        self._size, self._pixels = (width, height), pixels
        self._reformatter = VideoReformatter()  # keeps its tables from frame to frame

    def frame(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the frame in the new size and format; it may be the same object."""
        return self._reformatter.reformat(
            frame,
            *self._size,
            format=self._pixels,
            src_colorspace=MATRICES[frame.colorspace],
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG if _is_full(frame) else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG if self._pixels == "rgb24" else ColorRange.MPEG,
            interpolation=SCALER,
            threads=1,
        )

    def __call__(self, frame: av.VideoFrame) -> Frames:
        """Return an array: [H, W, 3] of RGB, or the planes of YUV."""
        return self.frame(frame).to_ndarray().astype(np.uint8, copy=False)


def colour_of(frame: av.VideoFrame) -> str:
    """Return matrix and range by which a frame is read, and which of them the file lacks."""
    matrix = "BT.709" if MATRICES[frame.colorspace] == Colorspace.ITU709 else "BT.601"
    untagged = " (untagged)" if frame.colorspace == UNTAGGED else ""
    if frame.color_range == ColorRange.UNSPECIFIED and not frame.format.name.startswith("yuvj"):
        return f"{matrix}{untagged}, limited range (untagged)"
    return f"{matrix}{untagged}, {'full' if _is_full(frame) else 'limited'} range"


def _is_full(frame: av.VideoFrame) -> bool:
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")


def _check_header(container: InputContainer, limits: ClipLimits, outlined: Outline) -> Header:
    videos = list(container.streams.video)
    if len(videos) != 1:
        others = ", ".join(s.type for s in container.streams if s.type != "video") or "nothing"
        raise ClipError(f"{len(videos)} video streams (and {others}), expected 1")
    stream = videos[0]
    if not stream.codec_context:  # PyAV makes none for a codec that it does not know
        raise ClipError(f"unknown codec; known are {', '.join(CODECS)}")
    context, fps = stream.codec_context, Fraction(stream.average_rate or 0)
    declared = stream.frames
    if not declared and stream.duration and stream.time_base and fps:
        declared = round(stream.duration * stream.time_base * fps)  # fragmented
    header = Header(
        context.width,
        context.height,
        fps,
        declared,
        context.name,
        str(context.pix_fmt),
        bool(container.streams.audio),
        outlined,
    )
    if problems := [*_format_problems(stream), *_size_problems(header, limits)]:
        raise ClipError("; ".join(problems))
    return header


def _format_problems(stream: av.VideoStream) -> Iterator[str]:
    """Yield the properties of codec and colour that are not supported."""
    context = stream.codec_context
    if context.name not in CODECS:
        yield f"codec {context.name}, known are {', '.join(CODECS)}"
    if context.pix_fmt not in PIXEL_FORMATS:
        yield f"pixel format {context.pix_fmt}, only 8-bit YUV is read"
    if context.colorspace not in MATRICES:
        yield f"colour matrix {context.colorspace} (H.273), only BT.709 and BT.601"
    if context.color_trc in HDR_TRANSFER:
        yield f"HDR transfer {context.color_trc} (H.273)"
    if stream.sample_aspect_ratio not in (None, 0, 1):
        yield f"pixels of aspect {stream.sample_aspect_ratio}, only square ones: {SQUARE_PIXELS}"


def _size_problems(header: Header, limits: ClipLimits) -> Iterator[str]:
    """Yield the sizes, rates and lengths outside the limits."""
    width, height, declared = header.width, header.height, header.num_declared
    if not (0 < width <= limits.max_side and 0 < height <= limits.max_side):
        yield f"{width}x{height} px, 1 to {limits.max_side} a side are read"
    if not SLOWEST_FPS <= header.fps <= FASTEST_FPS:
        rate = f"{float(header.fps):g} frames a second" if header.fps else "no frame rate"
        yield f"{rate}; {SLOWEST_FPS} to {FASTEST_FPS} are read"
    if not 0 < declared <= limits.max_frames:
        yield f"{declared} frames declared, 1 to {limits.max_frames} are read"
    if declared * width * height > limits.max_pixels:
        yield f"{declared} frames of {width}x{height}, at most {limits.max_pixels} px in all"


def _check_frame(frame: av.VideoFrame, number: int, header: Header) -> None:
    if (frame.width, frame.height) != (header.width, header.height):
        raise ClipError(
            f"frame {number} is {frame.width}x{frame.height}, "
            f"the header says {header.width}x{header.height}"
        )
    if frame.is_corrupt or frame.pts is None:
        raise ClipError(f"frame {number} is damaged")
    if frame.rotation:
        raise ClipError(f"rotated by {frame.rotation} degrees; rotate it before")
    if frame.colorspace not in MATRICES:  # the stream may say another than the header
        raise ClipError(f"colour matrix {frame.colorspace} (H.273), only BT.709 and BT.601")


@contextlib.contextmanager
def _ffmpeg_errors() -> Iterator[None]:
    """Raise ClipError in the place of FFmpeg's errors."""
    try:
        yield
    except (av.error.FFmpegError, EOFError, OverflowError, MemoryError) as error:
        raise ClipError(f"damaged: {str(error) or type(error).__name__}") from error
