"""Files of every kind of badness, judged by a child with bounds, while the parent goes on."""

import io
import os
import resource
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from afd.video.canonical import canonical
from afd.video.decode import ClipLimits, decode, open_clip
from afd.video.encode import encode
from afd.video.inspection import InspectionLimits, Inspectors, InvalidClip, ValidClip, inspect
from afd.video.mp4_boxes import C2PA
from tests.afd.canon import canon
from tests.afd.video.videos import FRAMES, SOUND, muxed, sound_only

MOVING = np.stack([np.roll(FRAMES[0] // 3 + 60, 2 * k, axis=1) for k in range(16)])


@pytest.fixture(scope="module")
def pool() -> Iterator[Inspectors]:
    with Inspectors(1) as made:
        yield made


def judged(pool: Inspectors, folder: Path, data: bytes) -> ValidClip | InvalidClip:
    path = folder / "clip.mp4"
    path.write_bytes(data)
    return pool.inspect(path)


def repeated(noise: bytes, count: int) -> bytes:
    """One picture of 1280x720, encoded once and shown `count` times: 2 s of decoding."""
    picture = np.frombuffer(noise, np.uint8).reshape(720, 1280, 3)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=16, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        (packet,) = stream.encode(None)
        content = bytes(packet)
        for number in range(count):
            copy = av.Packet(content)
            copy.stream, copy.time_base, copy.is_keyframe = stream, Fraction(1, 16), True
            copy.pts = copy.dts = number
            container.mux(copy)
    return file.getvalue()


def box(name: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + name + content


def test_a_sound_clip_and_what_is_known_of_it(pool: Inspectors, tmp_path: Path) -> None:
    said = judged(pool, tmp_path, SOUND)
    assert isinstance(said, ValidClip)
    facts = said.facts
    assert (facts.num_frames, facts.fps, facts.width, facts.height) == (16, 16.0, 64, 64)
    assert (facts.codec, facts.duration_s, facts.has_sound) == ("h264", 1.0, False)
    assert (facts.is_variable_rate, facts.has_c2pa, facts.flags) == (False, False, ())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b'{"error": 1}' + bytes(50), "JSON"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "playlist"),
        (b"GIF89a" + bytes(64), "a GIF"),
        (muxed(container_format="matroska"), "matroska"),
        (muxed(codec="mpeg4"), "codec mpeg4"),
        (muxed(pix_fmt="yuv420p10le"), "yuv420p10le"),
        (muxed(options={"color_trc": "smpte2084"}), "HDR"),
        (muxed(rotate=90), "rotated"),
        (muxed(streams=2), "2 video streams"),
        (sound_only(), "0 video streams"),
        (SOUND[: len(SOUND) // 2], "cut short"),
        (muxed()[:-300], "cut short"),
        (encode(FRAMES[:1], 16), "a still picture"),
        (encode(np.zeros((16, 64, 64, 3), np.uint8), 16), "black and frozen"),
        (encode(np.full((16, 64, 64, 3), 90, np.uint8), 16), "flat and frozen"),
        (encode(np.repeat(FRAMES[:1] // 4 + 60, 16, axis=0), 16), "frozen"),
    ],
)
def test_unsound_with_its_reason(pool: Inspectors, tmp_path: Path, data: bytes, told: str) -> None:
    said = judged(pool, tmp_path, data)
    assert isinstance(said, InvalidClip)
    assert told in said.reason


def test_odd_but_usable_is_flagged(pool: Inspectors, tmp_path: Path) -> None:
    one_dot = np.repeat(MOVING[:1], 16, axis=0)
    one_dot[:, 30:32, 30:32] = np.linspace(0, 255, 16).astype(np.uint8)[:, None, None, None]
    stalled = MOVING[[0] * 6 + [1] * 5 + [2] * 5]
    for frames, flag in ((one_dot, "near_static"), (stalled, "stalling")):
        said = judged(pool, tmp_path, encode(frames, 16))
        assert isinstance(said, ValidClip)
        assert said.facts.flags == (flag,)


def test_provenance_is_seen_and_left_alone(pool: Inspectors, tmp_path: Path) -> None:
    """A C2PA manifest in a box of its own, in front of the data or behind it."""
    manifest = box(b"uuid", C2PA + bytes(40))
    other = box(b"uuid", bytes(16) + bytes(40))
    for data, present in ((SOUND + manifest, True), (SOUND + other, False), (SOUND, False)):
        said = judged(pool, tmp_path, data)
        assert isinstance(said, ValidClip)
        assert said.facts.has_c2pa is present
        assert (tmp_path / "clip.mp4").read_bytes() == data


def test_variable_rate_is_noted_and_read(pool: Inspectors, tmp_path: Path) -> None:
    said = judged(pool, tmp_path, muxed(times=[0, 1, 2, 3, 7, 8, 9, 10]))
    assert isinstance(said, ValidClip)
    assert said.facts.is_variable_rate
    steady = judged(pool, tmp_path, muxed())
    assert isinstance(steady, ValidClip)
    assert not steady.facts.is_variable_rate


def test_edit_lists_hide_frames_without_being_a_cut(pool: Inspectors, tmp_path: Path) -> None:
    """A start in the middle, as trimming without encoding leaves it."""
    data = muxed(times=list(range(-3, 5)), movflags={"use_editlist": "1"})
    said = judged(pool, tmp_path, data)
    assert isinstance(said, ValidClip)
    assert said.facts.num_frames == len(decode(data).frames) == 5
    assert said.facts.num_hidden_frames == 3  # recorded: nobody sees them


@pytest.mark.parametrize(
    ("options", "pixels", "colour"),
    [
        ({}, "yuv420p", "BT.709 (untagged), limited range (untagged)"),
        ({"colorspace": "bt709", "color_range": "tv"}, "yuv420p", "BT.709, limited range"),
        ({"colorspace": "smpte170m", "color_range": "pc"}, "yuv420p", "BT.601, full range"),
        ({}, "yuvj420p", "BT.709 (untagged), full range"),
    ],
)
def test_how_colours_were_read_is_recorded(
    pool: Inspectors, tmp_path: Path, options: dict[str, str], pixels: str, colour: str
) -> None:
    said = judged(pool, tmp_path, muxed(options=options, pix_fmt=pixels))
    assert isinstance(said, ValidClip)
    assert (said.facts.colour, said.facts.num_hidden_frames) == (colour, 0)


def test_bombs_die_in_the_child(tmp_path: Path) -> None:
    """31 MB of RGB in 10 KB: refused by the header, or by the bounds of the child alone."""
    bomb = tmp_path / "bomb.mp4"
    bomb.write_bytes(encode(np.zeros((40, 512, 512, 3), np.uint8), 16))
    small = InspectionLimits(clip=ClipLimits(max_pixels=10**6))
    assert "at most 1000000 px" in reason(inspect(bomb, small))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason(inspect(bomb, InspectionLimits(memory_mb=1)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KB


def test_time_is_bounded(tmp_path: Path) -> None:
    """Decoding costs CPU time, a pipe or a dead disk costs none: each has its own bound."""
    heavy = tmp_path / "heavy.mp4"
    heavy.write_bytes(repeated(np.random.default_rng(0).bytes(720 * 1280 * 3), 100))
    with Inspectors(1, InspectionLimits(cpu_s=0.5)) as pool:
        assert "CPU time" in reason(pool.inspect(heavy))
        ok = tmp_path / "ok.mp4"
        ok.write_bytes(SOUND)
        assert isinstance(pool.inspect(ok), ValidClip)  # in a fresh child
    with Inspectors(1, InspectionLimits(wall_s=0.0)) as pool:
        assert "no verdict within 0 s" in reason(pool.inspect(heavy))


def reason(said: ValidClip | InvalidClip) -> str:
    assert isinstance(said, InvalidClip)
    return said.reason


def test_what_is_no_plain_file_is_not_opened(pool: Inspectors, tmp_path: Path) -> None:
    sound = tmp_path / "sound.mp4"
    sound.write_bytes(SOUND)
    link = tmp_path / "link.mp4"
    link.symlink_to(sound)
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    assert "cannot be read" in reason(pool.inspect(link))
    assert "not a plain file" in reason(pool.inspect(pipe))
    assert "not a plain file" in reason(pool.inspect(Path("/dev/zero")))
    assert "not a plain file" in reason(pool.inspect(tmp_path))
    assert "No such file" in reason(pool.inspect(tmp_path / "absent.mp4"))


def test_hostile_names(pool: Inspectors, tmp_path: Path) -> None:
    for name in (b"new\nline.mp4", b"\xff\xfe.mp4", "\u202e4pm.mp4".encode(), b'"{}.mp4'):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(SOUND)
        assert isinstance(pool.inspect(path), ValidClip)


def test_many_files_by_several_children_each_with_its_own_verdict(tmp_path: Path) -> None:
    """And the canonical clips that they leave are those of this process, to the bit."""
    out = tmp_path / "out"
    out.mkdir()
    paths = [tmp_path / f"{number}.mp4" for number in range(12)]
    for number, path in enumerate(paths):
        sound = encode(np.roll(MOVING, number, axis=2), 16)
        path.write_bytes(sound if number % 3 else sound[:-50])
    with Inspectors(2) as pool:
        said = dict(pool.map(paths, canon(), out))
    assert [isinstance(said[path], ValidClip) for path in paths] == [n % 3 > 0 for n in range(12)]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in paths if isinstance(said[path], ValidClip)
    )
    with open_clip(paths[1].read_bytes()) as clip:
        here = canonical(clip.frames(), canon())
    np.testing.assert_array_equal(decode((out / "1.mp4").read_bytes()).frames, here)


def test_equal_pictures_in_another_container_are_known(pool: Inspectors, tmp_path: Path) -> None:
    """Tags, names and times of files differ; what is shown does not."""
    other = SOUND + box(b"free", b"somebody else's note")
    facts = [judged(pool, tmp_path, data) for data in (SOUND, other, muxed())]
    assert all(isinstance(said, ValidClip) for said in facts)
    first, again, different = (said.facts for said in facts if isinstance(said, ValidClip))
    assert first.sha256 != again.sha256
    assert first.content_sha256 == again.content_sha256 != different.content_sha256


def test_a_child_that_cannot_run_says_nothing_about_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "av"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('no libavcodec here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="no libavcodec here"):
        inspect(tmp_path / "any.mp4")
