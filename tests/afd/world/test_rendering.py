"""Discs against areas and centroids; looks against what they state."""

import math

import numpy as np
import pytest

from afd import seeds
from afd.world.films import BATCH, film, film_corpus
from afd.world.rendering import CLEAN, GROUND, ODD, RGB, Look, render, to_uint8
from afd.world.scenes import BASE_CORPUS, TEACHER, Laws
from afd.world.sentences import all_sentences, parse

RED = np.array([RGB["red"]])


def draw(places: list, radius: float = 2.2, resolution: int = 16, look: Look = CLEAN) -> np.ndarray:
    positions = np.array(places, dtype=float)[:, None]
    return render(positions, [radius], RED, resolution, look, seeds.numpy_generator(1))


@pytest.mark.parametrize("resolution", [16, 32, 64])
@pytest.mark.parametrize("radius", [1.6, 2.2])
def test_disc_has_its_area_and_its_centre(resolution: int, radius: float) -> None:
    places = np.random.default_rng(0).uniform(3, 13, size=(50, 2))
    frames = draw(places.tolist(), radius, resolution)
    cover = (frames[:, 0] - GROUND) / (RGB["red"][0] - GROUND)
    scale = resolution / 16
    centre = (np.arange(resolution) + 0.5) / scale
    area = cover.sum(axis=(1, 2)) / scale**2
    # A linear edge one px wide adds pi / 12 px^2, and sampling it a little more.
    np.testing.assert_allclose(area, math.pi * radius**2, rtol=0.09 / scale)
    x = (cover.sum(axis=1) * centre).sum(axis=1) / cover.sum(axis=(1, 2))
    y = (cover.sum(axis=2) * centre).sum(axis=1) / cover.sum(axis=(1, 2))
    np.testing.assert_allclose(np.stack([x, y], 1), places, atol=0.06 / scale)


def test_small_frames_are_the_large_ones_averaged() -> None:
    places = np.random.default_rng(1).uniform(3, 13, size=(20, 2)).tolist()
    small, large = draw(places, resolution=16), draw(places, resolution=64)
    means = large.reshape(20, 3, 16, 4, 16, 4).mean(axis=(3, 5))
    assert np.abs(small - means).max() < 0.12
    assert np.abs(small - means).mean() < 0.003


def test_later_ball_covers_the_earlier_one() -> None:
    positions = np.full((1, 2, 2), 8.0)
    rgb = np.array([RGB["red"], RGB["blue"]])
    frame = render(positions, [2.2, 1.6], rgb, 16, CLEAN, seeds.numpy_generator(1))[0]
    np.testing.assert_allclose(frame[:, 8, 8], RGB["blue"], atol=1e-6)
    np.testing.assert_allclose(frame[:, 0, 0], GROUND, atol=1e-6)


def test_odd_look_dims_lifts_and_grains() -> None:
    far_away = [[-50.0, -50.0]] * 400
    frames = draw(far_away, look=Look((0.5, 0.5), (0.4, 0.4), grain=0.1), resolution=64)
    cells = frames.reshape(400, 3, 16, 4, 16, 4)
    assert (cells == cells[:, :, :, :1, :, :1]).all()  # one value a student px
    grain = cells[:, :, :, 0, :, 0]
    assert grain.mean() == pytest.approx(0.4, abs=0.002)
    assert grain.std() == pytest.approx(0.1, rel=0.02)
    assert abs(np.corrcoef(grain[:-1].ravel(), grain[1:].ravel())[0, 1]) < 0.02  # white in time
    ball = draw([[8.0, 8.0]], look=Look((0.5, 0.5), (0.2, 0.2)))
    expected = 0.2 + 0.5 * (np.array(RGB["red"]) - GROUND)
    np.testing.assert_allclose(ball[0, :, 8, 8], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"contrast": (0.9, 0.5)}, "contrast"),
        ({"background": (0.0, 1.2)}, "background"),
        ({"grain": math.nan}, "grain"),
        ({"grain": -1.0}, "grain"),
        ({"grain_px": 0.0}, "grain_px"),
    ],
)
def test_looks_that_cannot_be_are_refused_by_field(arguments: dict, field: str) -> None:
    with pytest.raises(ValueError, match=rf"look\.{field}"):
        Look(**arguments)


def test_bytes_are_rounded_to_nearest() -> None:
    frames = np.full((1, 3, 2, 2), 0.5019, np.float32)
    assert to_uint8(frames).shape == (1, 2, 2, 3)
    assert (to_uint8(frames) == 128).all()


def test_corpus_clip_is_the_film_of_its_seed_in_any_batch() -> None:
    sentences = all_sentences()[::7]
    clips, chosen = film_corpus(sentences, BASE_CORPUS, ODD, 3, BATCH + 20)
    assert clips.shape == (BATCH + 20, 16, 3, 16, 16)
    for number in (0, 17, BATCH - 1, BATCH, BATCH + 19):
        assert chosen[number] == sentences[number % len(sentences)]
        alone = film(chosen[number], BASE_CORPUS, ODD, seeds.derive(3, "clip", number))
        np.testing.assert_array_equal(clips[number], alone)


def test_one_seed_shows_one_scene_under_any_law_and_look() -> None:
    sentence = parse("a large red ball starts high on the left and drops straight down")
    other = Laws((0.0, 0.0), (0.3, 0.9), collide=0.5, velocity_jitter=0.0)
    clean, odd = film(sentence, TEACHER, CLEAN, 5), film(sentence, TEACHER, Look((1, 1)), 5)
    np.testing.assert_array_equal(clean, odd)
    np.testing.assert_array_equal(clean[0], film(sentence, other, CLEAN, 5)[0])
    assert (film(sentence, TEACHER, CLEAN, 6) != clean).any()
