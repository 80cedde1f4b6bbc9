"""Metrics block by block, against the same metrics of whole clips and clips of known truth."""

import numpy as np
import pytest

from afd.evaluation.metrics import drift, pocket
from afd.world.films import film_corpus
from afd.world.rendering import CLEAN
from afd.world.scenes import BASE_CORPUS, TEACHER, Laws
from afd.world.sentences import all_sentences

SENTENCES = all_sentences()[::7]


def films(laws: Laws, num_frames: int) -> np.ndarray:
    return film_corpus(SENTENCES, laws, CLEAN, 3, len(SENTENCES), num_frames)[0]


def test_blocks_add_up_to_the_clip() -> None:
    clips = films(BASE_CORPUS, 16)
    found, whole = drift.measure(clips, SENTENCES), pocket.measure(clips, SENTENCES)
    for name in ("trajectory_error_px", "object_permanence"):
        assert found[name].shape == (len(clips), 4)
        np.testing.assert_allclose(found[name].mean(axis=1), whole[name], atol=1e-12)
    first = pocket.sharpness(clips[:, :4])
    np.testing.assert_allclose(found["sharpness"][:, 0], first)


def test_teachers_laws_do_not_wander_on_twice_the_horizon_and_other_laws_do() -> None:
    sound = drift.measure(films(TEACHER, 32), SENTENCES)["trajectory_error_px"].mean(axis=0)
    wrong = drift.measure(films(BASE_CORPUS, 32), SENTENCES)["trajectory_error_px"].mean(axis=0)
    assert sound.shape == (8,)
    assert sound.max() < 1
    assert wrong[1] > 2 * sound[1]
    assert wrong[2] > wrong[0]


def test_a_ball_that_vanishes_is_lost_in_its_own_block_and_after() -> None:
    clips = films(TEACHER, 16).copy()
    clips[:, 8:] = np.median(clips, axis=(1, 3, 4), keepdims=True)
    kept = drift.measure(clips, SENTENCES)["object_permanence"].mean(axis=0)
    assert kept[:2].min() > 0.95
    assert kept[2:].max() < 0.05


def test_half_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        drift.measure(films(TEACHER, 14), SENTENCES)
