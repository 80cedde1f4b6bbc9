"""Frames to mp4 and back: colours, order, sameness of bytes."""

import io

import av
import numpy as np
import pytest

from afd.video.decode import decode
from afd.video.encode import encode


def noise(num_frames: int = 8, height: int = 64, width: int = 64) -> np.ndarray:
    grain = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3))
    return grain.astype(np.uint8)


@pytest.mark.parametrize(
    "rgb",
    [
        (0, 0, 0), (255, 255, 255), (128, 128, 128), (16, 16, 16), (255, 0, 0), (0, 255, 0),
        (0, 0, 255), (255, 255, 0), (235, 41, 36), (36, 204, 51), (46, 87, 242), (235, 209, 31),
    ],
)  # fmt: skip
def test_flat_colours_come_back(rgb: tuple[int, int, int]) -> None:
    """Read by a decoder told BT.709: with BT.601 on one side, red is 23 off in green."""
    frames = np.broadcast_to(np.array(rgb, np.uint8), (3, 64, 64, 3))
    back = decode(encode(frames, 16)).frames
    assert np.abs(back.astype(int) - frames).max() <= 1


def test_stream_says_what_it_is() -> None:
    with av.open(io.BytesIO(encode(noise(), 16))) as container:
        (stream,) = container.streams
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.frames, stream.average_rate) == (8, 16)
        h273_bt709, limited = 1, 1
        assert context.colorspace == context.color_primaries == context.color_trc == h273_bt709
        assert context.color_range == limited


def test_frames_keep_their_order_and_rate() -> None:
    frames = np.zeros((16, 32, 48, 3), np.uint8)
    frames += (np.arange(16, dtype=np.uint8) * 15)[:, None, None, None]
    clip = decode(encode(frames, 24))
    assert clip.fps == 24
    assert clip.frames.shape == frames.shape
    assert np.abs(clip.frames.astype(int) - frames).max() <= 2


def test_index_stands_in_front_of_the_data() -> None:
    data = encode(noise(), 16)
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_long_clip_has_room_for_its_index() -> None:
    assert len(decode(encode(noise(600, 16, 16), 30)).frames) == 600


def test_equal_frames_give_equal_bytes() -> None:
    first = encode(noise(), 16)
    for _ in range(10):
        np.random.default_rng(1).standard_normal(200_000)  # other contents of freed memory
        assert encode(noise(), 16) == first


@pytest.mark.parametrize(
    ("frames", "fps"),
    [
        (noise(2, 15, 16), 16),
        (noise(2, 16, 15), 16),
        (noise(0), 16),
        (noise().astype(np.float32), 16),
        (noise()[..., :1], 16),
        (noise()[0], 16),
        (noise(), 0),
    ],
)
def test_what_cannot_be_written_is_refused(frames: np.ndarray, fps: int) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        encode(frames, fps)
