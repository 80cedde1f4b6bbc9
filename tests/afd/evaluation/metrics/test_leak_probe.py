"""The probe finds the old one-sided path, and nothing on the one that both sides take."""

from functools import cache

import numpy as np
import pytest

from afd import seeds
from afd.evaluation.metrics.leak_probe import Leak, probe
from afd.video.canonical import as_delivered, canonical, conform
from afd.video.decode import open_clip
from afd.video.encode import encode
from afd.world.films import film as film_scene
from afd.world.rendering import CLEAN, Look, to_uint8
from afd.world.scenes import Laws
from afd.world.sentences import all_sentences
from tests.afd.canon import STRICT, canon

CANON = canon()
LAWS = Laws(gravity=(0.15, 0.15), restitution=(0.7, 0.7), collide=1.0, velocity_jitter=0.03)
LOOKS = {"clean": CLEAN, "grainy": Look(contrast=(0.7, 1.0), background=(0.06, 0.15), grain=0.05)}
NUM_PICTURES = 160


@cache
def pictures(look: str) -> np.ndarray:
    """Clips of the student's size: what a rollout would be, and what a teacher films of them."""
    sentences = all_sentences()
    return np.stack(
        [
            to_uint8(film_scene(sentences[i % 432], LAWS, LOOKS[look], seeds.derive(3, "leak", i)))
            for i in range(NUM_PICTURES)
        ]
    )  # fmt: skip


def teachers(frames: np.ndarray, crf: int = STRICT.crf) -> bytes:
    """The same pictures as a teacher delivers them."""
    return encode(frames.repeat(4, axis=1).repeat(4, axis=2), 16, crf)


def through(video: bytes, view) -> np.ndarray:
    with open_clip(video) as clip:
        return view(clip.frames(), CANON)


@cache
def delivered(look: str) -> list[bytes]:
    return [teachers(frames) for frames in pictures(look)]


@pytest.mark.parametrize("look", LOOKS)
def test_one_path_is_at_chance(look: str) -> None:
    teacher = np.stack([through(video, canonical) for video in delivered(look)])
    student = np.stack([canonical(as_delivered(clip, CANON), CANON) for clip in pictures(look)])
    found = probe(teacher, student, seed=1)
    assert found.is_chance, found


@pytest.mark.parametrize("look", LOOKS)
def test_the_old_path_is_found_at_once(look: str) -> None:
    """Teacher clips decoded from H.264, rollouts only rounded to 8 bits: as it was."""
    teacher = np.stack([through(video, conform) for video in delivered(look)])
    found = probe(teacher, pictures(look), seed=1)
    assert found.interval[0] > 0.8, found


@pytest.mark.parametrize("look", LOOKS)
def test_encoding_both_alike_is_not_enough(look: str) -> None:
    """Two generations on one side and one on the other show: why rollouts are filmed first."""
    teacher = np.stack([through(video, canonical) for video in delivered(look)])
    unfilmed = canon(magnify=1, crf=0)
    student = np.stack([canonical(as_delivered(clip, unfilmed), CANON) for clip in pictures(look)])
    assert probe(teacher, student, seed=1).interval[0] > 0.5


def test_different_motion_is_no_leak() -> None:
    """Two halves of one world, both by one path: nothing to find."""
    clips = pictures("clean")
    seen = np.stack([canonical(as_delivered(clip, CANON), CANON) for clip in clips])
    assert probe(seen[::2], seen[1::2], seed=2).is_chance


def test_its_interval_is_the_binomial_one() -> None:
    assert Leak(50, 100).interval == pytest.approx((0.3688, 0.6312), abs=1e-3)
    assert not Leak(70, 100).is_chance
