"""The look distance: zero for the same look, blind to motion, and a true Frechet distance."""

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage

from afd.evaluation.metrics.appearance import FEATURES, frechet_distance, look_features
from afd.world.films import film_corpus
from afd.world.rendering import CLEAN, ODD, Look
from afd.world.scenes import BASE_CORPUS, TEACHER, Laws
from afd.world.sentences import all_sentences

SENTENCES = all_sentences()[::2]


def features(laws: Laws, look: Look, seed: int = 1) -> np.ndarray:
    clips, _ = film_corpus(SENTENCES, laws, look, seed, len(SENTENCES))
    return look_features(clips)


@pytest.fixture(scope="module")
def base() -> np.ndarray:
    return features(BASE_CORPUS, CLEAN)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    found = frechet_distance(a, b)
    assert (found.num_a, found.num_b) == (len(a), len(b))
    assert found.distance is not None
    return found.distance


def test_one_feature_a_name(base: np.ndarray) -> None:
    assert base.shape == (len(SENTENCES), len(FEATURES))
    assert np.isfinite(base).all()


def test_motion_is_not_look(base: np.ndarray) -> None:
    """Other seeds and even other laws stay far below what another look costs."""
    assert distance(features(BASE_CORPUS, CLEAN, seed=2), base) < 0.01
    assert distance(features(TEACHER, CLEAN), base) < 0.05
    still = Laws((0.0, 0.0), (0.5, 0.5), 1.0, 0.0)
    assert distance(features(still, CLEAN), base) < 0.1


def test_every_change_of_look_is_seen(base: np.ndarray) -> None:
    clips, _ = film_corpus(SENTENCES, BASE_CORPUS, CLEAN, 1, len(SENTENCES))
    blurred = scipy.ndimage.gaussian_filter(clips, (0, 0, 0, 0.7, 0.7))
    assert distance(look_features(blurred), base) > 5
    assert distance(features(BASE_CORPUS, ODD), base) > 30
    assert distance(features(BASE_CORPUS, Look(contrast=(0.7, 0.7))), base) > 1
    assert distance(features(BASE_CORPUS, Look(background=(0.2, 0.2))), base) > 1
    assert distance(features(BASE_CORPUS, Look(grain=0.05)), base) > 1
    vanished = np.full_like(clips, 0.06)
    assert distance(look_features(vanished), base) > 10


def test_more_of_a_change_is_farther(base: np.ndarray) -> None:
    looks = [Look(grain=grain) for grain in (0.02, 0.05, 0.1)]
    distances = [distance(features(BASE_CORPUS, look), base) for look in looks]
    assert distances == sorted(distances)


def test_closed_form_of_diagonal_gaussians() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2 a dimension, on data made to have exactly these moments."""
    generator = np.random.default_rng(0)
    white = generator.standard_normal((200, 3))
    white -= white.mean(axis=0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    a = white * [1.0, 2.0, 0.5] + [0.0, 1.0, 2.0]
    b = white * [1.5, 2.0, 0.1] + [1.0, 1.0, 0.0]
    assert distance(a, b) == pytest.approx(0.25 + 0.16 + 1.0 + 4.0)


def test_against_the_general_matrix_square_root() -> None:
    generator = np.random.default_rng(1)
    a = generator.standard_normal((300, 6)) @ generator.standard_normal((6, 6))
    b = generator.standard_normal((300, 6)) @ generator.standard_normal((6, 6)) + 1
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root.real)
    assert distance(a, b) == pytest.approx(expected)
    assert distance(b, a) == pytest.approx(expected)
    assert distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_fewer_clips_than_features_are_safe() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.standard_normal((3, 14)), generator.standard_normal((2, 14))
    assert distance(a, b) >= 0
    constant = np.ones((5, 14))
    assert distance(constant, constant) == 0
    assert distance(constant, constant + 1) == pytest.approx(14)


def test_one_clip_has_no_distance() -> None:
    one, many = np.zeros((1, 14)), np.zeros((5, 14))
    assert frechet_distance(one, many) == (None, 1, 5)
    assert frechet_distance(many, np.zeros((0, 14))) == (None, 5, 0)


def test_what_are_no_clips_is_refused() -> None:
    clips = np.zeros((2, 4, 3, 16, 16), np.float32)
    with pytest.raises(ValueError, match="must be"):
        look_features(clips[:, :, 0])
    clips[1, 2, 0, 3, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        look_features(clips)
    with pytest.raises(ValueError, match="must be"):
        frechet_distance(np.zeros((3, 2)), np.zeros((3, 4)))
