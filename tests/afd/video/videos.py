"""Videos as somebody else would write them: the material of hostile files."""

import io
import struct
from fractions import Fraction

import av
import numpy as np

from afd.video.encode import encode

FRAMES = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3)).astype(np.uint8)
SOUND = encode(FRAMES, 16)


def muxed(
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    streams: int = 1,
    container_format: str = "mp4",
    options: dict[str, str] | None = None,
    movflags: dict[str, str] | None = None,
    rotate: int = 0,
    pixel_aspect: Fraction = Fraction(1),
) -> bytes:
    """An mp4 as somebody else would write it."""
    file = io.BytesIO()
    with av.open(file, "w", format=container_format, options=movflags or {}) as container:
        made = []
        for _ in range(streams):
            stream = container.add_stream(codec, rate=16, options=options or {})
            stream.width = stream.height = 64
            stream.pix_fmt = pix_fmt
            if pixel_aspect != 1:
                stream.codec_context.sample_aspect_ratio = pixel_aspect
            if rotate:
                stream.set_display_rotation(rotate)
            made.append(stream)
        for number, pts in enumerate(times or range(8)):
            for stream in made:
                frame = av.VideoFrame.from_ndarray(FRAMES[number], format="rgb24")
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = pts, Fraction(1, 16)
                container.mux(stream.encode(frame))
        for stream in made:
            container.mux(stream.encode(None))
    return file.getvalue()


def sound_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        for _ in range(8):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def patched(data: bytes, box: bytes, offset: int, value: int) -> bytes:
    """`data` with the 32-bit number `offset` bytes behind the first name of `box` replaced."""
    place = data.index(box) + 4 + offset
    return data[:place] + struct.pack(">I", value) + data[place + 4 :]
