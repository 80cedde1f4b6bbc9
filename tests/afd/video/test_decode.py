"""Hostile bytes: each is refused with its reason, none crashes, none is believed."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from afd.video.decode import ClipError, ClipLimits, decode
from afd.video.encode import encode
from tests.afd.video.videos import FRAMES, SOUND, muxed, patched, sound_only


def test_sound_clip_from_bytes_and_from_a_file() -> None:
    clip = decode(SOUND)
    assert clip.frames.shape == (16, 64, 64, 3)
    assert clip.fps == 16
    np.testing.assert_array_equal(decode(io.BytesIO(SOUND)).frames, clip.frames)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Bad gateway</html>", "<!DOCTYPE html>"),
        (b'{"error": {"code": 403}}', "begins with"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "#EXTM3U"),
        (b"GIF89a" + bytes(64), "GIF89a"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "begins with"),
        (b"\x00", "begins with"),
        (SOUND[:40], "cut short"),
        (SOUND[: SOUND.index(b"moov") - 4], "damaged|0 video streams"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(500), "damaged|0 video streams"),
    ],
)
def test_what_is_no_mp4_is_named(data: bytes, told: str) -> None:
    with pytest.raises(ClipError, match=told):
        decode(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (sound_only(), "0 video streams"),
        (muxed(streams=2), "2 video streams"),
        (muxed(codec="mpeg4"), "codec mpeg4"),
        (muxed(pix_fmt="yuv420p10le"), "yuv420p10le"),
        (muxed(rotate=90), "rotated"),
        (muxed(options={"color_trc": "smpte2084"}), "HDR"),
        (muxed(pixel_aspect=Fraction(128, 117)), "setsar=1"),
        (muxed(options={"colorspace": "bt2020nc"}), "colour matrix"),
    ],
)
def test_what_the_method_does_not_read_is_named(data: bytes, told: str) -> None:
    with pytest.raises(ClipError, match=told):
        decode(data)


def test_matroska_is_not_guessed() -> None:
    with pytest.raises(ClipError, match="not an mp4"):
        decode(muxed(container_format="matroska"))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("index_last", [False, True])
def test_truncated(share: float, index_last: bool) -> None:
    data = muxed() if index_last else SOUND
    with pytest.raises(ClipError):
        decode(data[: int(share * len(data))])


def test_bit_flips_are_refused_or_change_the_hash() -> None:
    """What the decoder swallows, the content hash of a shard finds; nothing else may escape."""
    generator = np.random.default_rng(0)
    truth = decode(SOUND).frames
    refused = 0
    for _ in range(200):
        data = bytearray(SOUND)
        for place in generator.integers(0, len(data), 40):
            data[place] ^= 1 << int(generator.integers(8))
        try:
            clip = decode(bytes(data))
        except ClipError:
            refused += 1
        else:
            assert clip.frames.shape[0] == 16
            assert not np.array_equal(clip.frames, truth)
    assert refused > 150


def test_declared_and_decoded_frames_must_agree() -> None:
    # stsz: version and flags, one size for all (0), number of samples.
    with pytest.raises(ClipError, match=r"declared|damaged"):
        decode(patched(SOUND, b"stsz", 8, 12))


@pytest.mark.parametrize(
    ("box", "offset", "value"),
    [
        (b"stsz", 8, 20),  # frames
        (b"stsz", 8, 2**31 - 1),
        (b"stts", 4, 2**32 - 1),
        (b"stco", 8, 2**32 - 16),  # where the data stands
        (b"avc1", 24, 0xFFFFFFFF),  # width and height
        (b"mvhd", 12, 0),  # time scale
        (b"mdhd", 12, 0),
    ],
)
def test_lying_headers(box: bytes, offset: int, value: int) -> None:
    """Refused, or read as what it is: never another number of frames, never a crash."""
    try:
        clip = decode(patched(SOUND, box, offset, value))
    except ClipError:
        return
    np.testing.assert_array_equal(clip.frames, decode(SOUND).frames)


@pytest.mark.parametrize("length", [1, 2, 7, 2**31, 2**32 - 1])
@pytest.mark.parametrize("box", [b"ftyp", b"moov", b"mdat"])
def test_box_that_claims_what_is_not_there(box: bytes, length: int) -> None:
    place = SOUND.index(box) - 4
    with pytest.raises(ClipError, match="claims"):
        decode(SOUND[:place] + struct.pack(">I", length) + SOUND[place + 4 :])


def test_limits_hold_before_a_frame_is_decoded() -> None:
    bomb = encode(np.zeros((40, 512, 512, 3), np.uint8), 16)
    assert len(bomb) < 10_000  # 31 MB of RGB
    with pytest.raises(ClipError, match="40 frames of 512x512, at most 1000000 px"):
        decode(bomb, ClipLimits(max_pixels=1_000_000))
    with pytest.raises(ClipError, match="40 frames declared"):
        decode(bomb, ClipLimits(max_frames=39))
    with pytest.raises(ClipError, match="512x512"):
        decode(bomb, ClipLimits(max_side=511))
    with pytest.raises(ClipError, match="at most 100"):
        decode(bomb, ClipLimits(max_bytes=100))


def test_sound_tracks_are_ignored() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=16)
        video.width = video.height = 64
        audio = container.add_stream("aac", rate=16000)
        for number in range(8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(FRAMES[number], format="rgb24")))
            tone = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            tone.sample_rate = 16000
            container.mux(audio.encode(tone))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    assert decode(file.getvalue()).frames.shape == (8, 64, 64, 3)


def test_fragmented_and_full_range_clips_are_read() -> None:
    assert len(decode(muxed(movflags={"movflags": "frag_keyframe+empty_moov"})).frames) == 8
    assert len(decode(muxed(pix_fmt="yuvj420p")).frames) == 8
