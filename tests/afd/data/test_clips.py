"""Hostile bytes: each is refused with its reason, none crashes, none is believed."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from afd.data.clips import ClipError, ClipLimits, canonical, decode, frames_sha256
from afd.encoding import encode

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
) -> bytes:
    """An mp4 as somebody else would write it."""
    file = io.BytesIO()
    with av.open(file, "w", format=container_format, options=movflags or {}) as container:
        made = []
        for _ in range(streams):
            stream = container.add_stream(codec, rate=16, options=options or {})
            stream.width = stream.height = 64
            stream.pix_fmt = pix_fmt
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
        (muxed(times=[0, 1, 2, 3, 7, 8, 9, 10]), "variable frame rate"),
        (muxed(rotate=90), "rotated"),
        (muxed(options={"color_trc": "smpte2084"}), "HDR"),
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
    truth = frames_sha256(decode(SOUND).frames)
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
            assert frames_sha256(clip.frames) != truth
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


def test_canonical_averages_areas() -> None:
    small = canonical(FRAMES, 16, 16)
    means = FRAMES.astype(float).reshape(16, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    assert small.shape == (16, 3, 16, 16)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small.transpose(0, 2, 3, 1) * 255, means, atol=0.5 + 1e-4)
    eight_bits = small * 255
    np.testing.assert_allclose(eight_bits, np.rint(eight_bits), atol=1e-4)


def test_canonical_keeps_what_has_the_size_already() -> None:
    frames = FRAMES[:, :16, :16]
    once = canonical(frames, 16, 16)
    np.testing.assert_array_equal(np.rint(once * 255).transpose(0, 2, 3, 1), frames)


@pytest.mark.parametrize("side", [17, 24, 40, 63])
def test_canonical_of_sizes_that_do_not_divide(side: int) -> None:
    """Against the average of a finely repeated picture; a ramp keeps its mean."""
    frames = FRAMES[:4, :side, :side]
    fine = frames.repeat(16, axis=1).repeat(16, axis=2).astype(float)
    means = fine.reshape(4, 16, side, 16, side, 3).mean(axis=(2, 4))
    small = canonical(frames, 16, 4)
    np.testing.assert_allclose(small.transpose(0, 2, 3, 1) * 255, means, atol=0.5 + 1e-4)


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (FRAMES[:15], "15 frames"),
        (FRAMES[:, :32], "square"),
        (FRAMES[:, :8, :8], "at least 16"),
        (FRAMES.astype(np.float32), "uint8"),
    ],
)
def test_canonical_invents_nothing(frames: np.ndarray, told: str) -> None:
    with pytest.raises(ClipError, match=told):
        canonical(frames, 16, 16)


def test_content_hash_sees_shape_and_pixels() -> None:
    assert frames_sha256(FRAMES) == frames_sha256(FRAMES.copy(order="F"))
    assert frames_sha256(FRAMES) != frames_sha256(FRAMES.reshape(16, 32, 128, 3))
    changed = FRAMES.copy()
    changed[3, 2, 1, 0] ^= 1
    assert frames_sha256(FRAMES) != frames_sha256(changed)
