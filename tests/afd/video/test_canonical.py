"""The one path: against obvious references, and equal bytes for equal pictures from both sides."""

import io
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest

from afd.video.canonical import as_delivered, canonical, conform
from afd.video.decode import ClipError, TimedFrame, decode, open_clip
from afd.video.encode import as_yuv, encode, through_h264
from tests.afd.canon import STRICT, canon

RNG = np.random.default_rng(0)
CANON = canon()


def smooth(num_frames: int = 16, height: int = 16, width: int = 16) -> np.ndarray:
    """Pictures in which neighbours are alike, as an encoder likes them."""
    coarse = RNG.uniform(30, 220, (num_frames, 3, 3, 3))
    y = np.linspace(0, 2, height)[:, None]
    x = np.linspace(0, 2, width)[None]
    rows = np.stack([np.clip(1 - np.abs(y - k), 0, 1) for k in range(3)])
    columns = np.stack([np.clip(1 - np.abs(x - k), 0, 1) for k in range(3)])
    return np.einsum("khi,lim,fklc->fhmc", rows, columns.transpose(0, 1, 2), coarse).astype(
        np.uint8
    )


def grey(levels: list[int], times: list[Fraction], side: int = 16) -> Iterator[TimedFrame]:
    """A flat video: frame k has one grey level and comes on at times[k]."""
    frames = np.repeat(np.array(levels, np.uint8)[:, None, None, None], 3, axis=3)
    frames = frames.repeat(side, axis=1).repeat(side, axis=2)
    for frame, time in zip(as_yuv(frames, 16, "444"), times, strict=True):
        yield TimedFrame(frame, time)


def levels_of(clip: np.ndarray) -> list[int]:
    return [round(float(frame.mean()) / 10) for frame in clip]


def test_the_same_pictures_give_equal_bytes_from_both_sides() -> None:
    """A teacher who films a rollout's very pictures, and the rollout."""
    for pictures in (smooth(), RNG.integers(0, 256, (16, 16, 16, 3)).astype(np.uint8)):
        video = encode(pictures.repeat(4, axis=1).repeat(4, axis=2), 16, STRICT.crf)
        with open_clip(video) as clip:
            teacher = canonical(clip.frames(), CANON)
        np.testing.assert_array_equal(teacher, canonical(as_delivered(pictures, CANON), CANON))


def test_pictures_survive() -> None:
    """Pictures of 16 px are still themselves: 4:4:4 at QP 20 costs few levels of 255."""
    pictures = smooth().astype(float)
    seen = canonical(as_delivered(pictures.astype(np.uint8), CANON), CANON)
    assert seen.shape == pictures.shape
    assert np.sqrt(((seen - pictures) ** 2).mean()) < 4


@pytest.mark.parametrize("settings", [{"crf": 12}, {"crf": 30}])
def test_without_a_container_it_is_the_same_codec(settings: dict[str, int]) -> None:
    pictures = smooth(8, 64, 48)
    with open_clip(encode(pictures, 16, **settings)) as clip:
        stored = [shown.frame.to_ndarray() for shown in clip.frames()]
    direct = [
        frame.to_ndarray() for frame in through_h264(list(as_yuv(pictures, 16)), 16, **settings)
    ]
    np.testing.assert_array_equal(np.stack(direct), np.stack(stored))


@pytest.mark.parametrize("side", [16, 17, 24, 40, 64, 120])
def test_sizes_are_area_averages(side: int) -> None:
    """Of the decoded pixels, against the average of a finely repeated picture."""
    video = encode_any(smooth(16, side, side))
    whole = decode(video).frames.astype(float)
    with open_clip(video) as clip:
        small = conform(clip.frames(), CANON)
    fine = whole.repeat(16, axis=1).repeat(16, axis=2)
    means = fine.reshape(16, 16, side, 16, side, 3).mean(axis=(2, 4))
    # Chroma of 4:2:0 is averaged on its own grid instead of being spread first.
    assert np.abs(small - means).mean() < 1.5


def encode_any(pictures: np.ndarray) -> bytes:
    """4:2:0 needs even sizes: an odd one is written as 4:4:4."""
    height, width = pictures.shape[1:3]
    if not (height % 2 or width % 2):
        return encode(pictures, 16)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=16, options={"qp": "1"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv444p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_another_rate_shows_what_is_on_at_each_instant() -> None:
    """24 frames a second for a second, seen 16 times a second: frame floor(k * 24 / 16)."""
    levels = [10 * (k % 23) + 10 for k in range(24)]
    clip = conform(grey(levels, [Fraction(k, 24) for k in range(24)]), CANON)
    assert levels_of(clip) == [levels[k * 24 // 16] // 10 for k in range(16)]


def test_a_slower_rate_repeats_frames() -> None:
    levels = [20, 60, 100, 140, 180, 220, 40, 80]
    clip = conform(grey(levels, [Fraction(k, 8) for k in range(8)]), CANON)
    assert levels_of(clip) == [level // 10 for level in levels for _ in range(2)]


def test_a_variable_rate_goes_by_timestamps() -> None:
    """Four frames that stay on for 1, 5, 2 and (as the one before) 2 sixteenths, and so on."""
    ticks = [0, 1, 6, 8, 9, 10, 14]
    levels = [20, 50, 80, 110, 140, 170, 200]
    clip = conform(grey(levels, [Fraction(t, 16) for t in ticks]), canon(longer="first"))
    expected = [2, 5, 5, 5, 5, 5, 8, 8, 11, 14, 17, 17, 17, 17, 20, 20]
    assert levels_of(clip) == expected


def test_rounded_time_bases_lose_no_frame() -> None:
    """1/16 s written in milliseconds: 0, 63, 125, 188, ... ."""
    levels = [10 + 14 * k for k in range(16)]
    times = [Fraction(round(k * 62.5), 1000) for k in range(16)]
    assert levels_of(conform(grey(levels, times), CANON)) == [round(v / 10) for v in levels]


@pytest.mark.parametrize(
    ("policy", "found", "expected"),
    [
        ({"longer": "first"}, 20, list(range(16))),
        ({"longer": "middle"}, 20, list(range(2, 18))),
        ({"shorter": "hold"}, 10, [*range(10), 9, 9, 9, 9, 9, 9]),
        ({"shorter": "loop"}, 10, [*range(10), *range(6)]),
        ({"shorter": "hold"}, 1, [0] * 16),
    ],
)
def test_lengths_follow_policy(policy: dict, found: int, expected: list[int]) -> None:
    levels = [10 * k + 10 for k in range(found)]
    clip = conform(grey(levels, [Fraction(k, 16) for k in range(found)]), canon(**policy))
    assert levels_of(clip) == [k + 1 for k in expected]


@pytest.mark.parametrize(
    ("video", "told"),
    [
        (encode(smooth(15, 64, 64), 16), "15 frames at 16 fps.*canonical.shorter says refuse"),
        (encode(smooth(17, 64, 64), 16), "17 frames.*canonical.longer says refuse"),
        (encode(smooth(16, 64, 32), 16), "32x64 px is not square; canonical.aspect"),
        (encode(smooth(16, 8, 8), 16), "at least 16 px"),
    ],
)
def test_nothing_is_invented_without_a_policy(video: bytes, told: str) -> None:
    with pytest.raises(ClipError, match=told), open_clip(video) as clip:
        canonical(clip.frames(), CANON)


@pytest.mark.parametrize(("height", "width"), [(64, 128), (128, 64), (90, 64)])
def test_other_shapes_are_cropped_to_their_middle(height: int, width: int) -> None:
    """The same pixels as cutting the square out first."""
    pictures = smooth(16, height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pictures[:, top : top + side, left : left + side]
    clips = []
    for video in (encode(pictures, 16, 1), encode(square, 16, 1)):
        with open_clip(video) as clip:
            clips.append(conform(clip.frames(), canon(aspect="crop")).astype(int))
    assert np.abs(clips[0] - clips[1]).mean() < 2.5  # half a pixel where the rest is odd


@pytest.mark.parametrize(("height", "width"), [(48, 80), (64, 80), (48, 128), (72, 120)])
def test_a_frame_that_is_not_square(height: int, width: int) -> None:
    """48 x 80 out of a wider, a higher and a larger video: the middle, as cut out beforehand."""
    wide = canon(frame_size=[24, 40], aspect="crop")
    pictures = smooth(16, height, width)
    inner = (min(height, width * 24 // 40), min(width, height * 40 // 24))
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    middle = pictures[:, top : top + inner[0], left : left + inner[1]]
    clips = []
    for video in (encode(pictures, 16, 1), encode(middle, 16, 1)):
        with open_clip(video) as clip:
            clips.append(conform(clip.frames(), wide).astype(int))
    assert clips[0].shape == (16, 24, 40, 3)
    assert np.abs(clips[0] - clips[1]).mean() < 2.5
    with (
        open_clip(encode(smooth(16, 64, 80), 16)) as clip,
        pytest.raises(ClipError, match="80x64 px is not 40:24"),
    ):
        conform(clip.frames(), canon(frame_size=[24, 40]))
