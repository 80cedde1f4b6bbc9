"""A teacher of another rate: its rhythm names it, until both sides show the same instants."""

from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from afd.artifacts import ArtifactRef
from afd.config import Params
from afd.evaluation.metrics.leak_probe import Leak, probe, rhythm
from afd.params import load_params
from afd.stages import requests
from afd.video.canonical import as_delivered, canonical
from afd.video.decode import open_clip
from afd.video.encode import encode
from afd.video.rhythm import frames_held, hold_for, rhythm_note
from tests.afd.canon import canon

CANON = canon(longer="first")
PARAMS = Path(__file__).parents[4] / "params"
NUM_CLIPS = 80


@cache
def filmed(fps: int, size: int) -> list[np.ndarray]:
    """One second of a disc that moves evenly, each clip in its own way."""
    draw = np.random.default_rng(5)
    rows, columns = np.mgrid[:64, :64]
    clips: list[np.ndarray] = []
    for _ in range(NUM_CLIPS):
        way, speed = draw.uniform(0, 2 * np.pi), draw.uniform(24, 32)
        down, right = speed * np.sin(way), speed * np.cos(way)
        y, x = 32 - down / 2, 32 - right / 2
        light, ground = draw.uniform(150, 250, 3), draw.uniform(10, 60, 3)
        frames: list[np.ndarray] = []
        for time in np.arange(fps) / fps:
            far = np.hypot(rows - y - down * time, columns - x - right * time)
            disc = np.clip(9 - far, 0, 1)[..., None]
            frames.append(ground + disc * (light - ground))
        cell = 64 // size
        clip = np.stack(frames).reshape(fps, size, cell, size, cell, 3).mean(axis=(2, 4))
        clips.append(clip.round().astype(np.uint8))
    return clips


def found(fps: int, hold: int) -> tuple[Leak, np.ndarray, np.ndarray]:
    path = replace(CANON, hold=hold)
    teacher: list[np.ndarray] = []
    for frames in filmed(fps, 64):
        with open_clip(encode(frames, fps)) as clip:
            teacher.append(canonical(clip.frames(), path))
    student = [canonical(as_delivered(frames, CANON), path) for frames in filmed(16, 16)]
    sides = np.stack(teacher), np.stack(student)
    return probe(*sides, seed=1, with_time=True), rhythm(sides[0]), rhythm(sides[1])


@pytest.mark.parametrize("fps", [24, 8])
def test_a_rate_that_is_picked_from_shows_and_one_rhythm_does_not(fps: int) -> None:
    seen, teacher, student = found(fps, 1)
    assert seen.interval[0] > 0.85, seen
    least = np.median([teacher[:, 0], student[:, 0]])  # the period of two frames, by a threshold
    assert (teacher[:, 0] > least).mean() + (student[:, 0] < least).mean() > 1.9
    assert found(fps, hold_for(fps, 16, 16))[0].is_chance


def test_a_whole_multiple_needs_no_picture_to_be_held() -> None:
    assert hold_for(32, 16, 16) == hold_for(16, 16, 16) == 1
    seen, *_ = found(32, 1)
    assert seen.is_chance, seen


def test_only_a_rate_that_needs_it_changes_what_is_made_and_plan_says_so() -> None:
    ref = ArtifactRef(kind="teacher_clips", fingerprint="0" * 64)

    def asked(fps: int | None) -> dict[str, object]:
        files = [] if fps is None else [PARAMS / "teachers" / "openai_videos.yaml"]
        filmed = [] if fps is None else [f"teacher.fps={fps}.0"]
        permitted = ["teacher.training_permitted=yes", *filmed]
        params = load_params(Params, PARAMS / "pocket.yaml", files, permitted)
        requested = requests.fit(params, [ref], [ref], None, 0)
        supervised = requests.update(params, [ref], None, None, ref, ref, 0)
        assert "teacher_fps" not in supervised.params  # no discriminator: every frame is learned
        return requested.params

    assert asked(24)["teacher_fps"] == 24
    for same in (None, 16, 32):
        assert "teacher_fps" not in asked(same)
    for published in ("self_forcing", "causal_forcing"):
        params = load_params(Params, PARAMS / f"{published}.yaml")
        note = rhythm_note(params.teacher_fps or 0, params.fps, params.num_frames) or ""
        assert "meet 8 times a second" in note
    assert "its rhythm names the side" in (rhythm_note(30, 16, 16) or "")
    assert rhythm_note(32, 16, 81) is None


@pytest.mark.parametrize(
    ("rate", "held"),
    [
        (24.0, 2),
        (24000 / 1001, 2),
        (30000 / 1001, 8),
        (12.5, 32),
        (8, 2),
        (12, 4),
        (25, 16),
        (15.98, 1),
    ],
)
def test_instants_that_both_rates_have(rate: float, held: int) -> None:
    assert frames_held(rate, 16) == held
    assert Fraction(round(rate * 2), 2) * held / 16 % 1 == 0
    few = hold_for(rate, 16, 16)
    assert few == (held if 16 / held >= 4 else 1)
