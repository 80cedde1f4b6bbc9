"""Every metric on clips of known truth: sound, wrong, odd-looking, and tampered with."""

import functools

import numpy as np
import pytest

from afd.evaluation.metrics.pocket import (
    NAMES,
    ball_colours,
    ball_radii,
    gravity,
    gravity_free_fit,
    measure,
    trajectory_error,
    valid_trajectories,
)
from afd.evaluation.metrics.tracking import Tracks
from afd.world.films import film_corpus
from afd.world.rendering import CLEAN, GROUND, ODD, Look
from afd.world.scenes import BASE_CORPUS, TEACHER, Laws
from afd.world.sentences import Sentence, all_sentences

SENTENCES = all_sentences()[::3]
MEETING = tuple(sentence for sentence in all_sentences() if sentence.meets)[::4]
ONE_BALL = tuple(sentence for sentence in all_sentences() if len(sentence.balls) == 1)[::4]


@functools.cache
def filmed(
    laws: Laws, look: Look = CLEAN, sentences: tuple[Sentence, ...] = SENTENCES
) -> np.ndarray:
    clips, _ = film_corpus(sentences, laws, look, 1, len(sentences))
    clips.flags.writeable = False
    return clips


def measured(clips: np.ndarray, sentences: tuple[Sentence, ...] = SENTENCES) -> dict[str, float]:
    """Means over the clips for which a metric is defined; metrics defined for none are left out."""
    found = measure(clips, sentences)
    return {name: float(np.nanmean(v)) for name, v in found.items() if np.isfinite(v).any()}


def laws(**changes: object) -> Laws:
    fixed = {
        "gravity": (0.15, 0.15),
        "restitution": (0.7, 0.7),
        "collide": 1.0,
        "velocity_jitter": 0.0,
    }
    return Laws(**{**fixed, **changes})


def test_every_metric_has_a_value_a_clip() -> None:
    values = measure(filmed(TEACHER), SENTENCES)
    assert tuple(values) == NAMES
    assert all(value.shape == (len(SENTENCES),) for value in values.values())
    assert not np.isinf(np.stack(list(values.values()))).any()


def test_teacher_clips_are_sound() -> None:
    found = measured(filmed(TEACHER))
    assert found["gravity"] == pytest.approx(0.15, abs=0.001)
    assert found["gravity_free_fit"] == pytest.approx(0.15, abs=0.002)
    assert found["trajectory_error_px"] < 0.1
    assert found["object_permanence"] == 1.0
    assert found["interpenetration"] == 0.0
    assert found["bounce"] == pytest.approx(0.7, abs=0.02)
    assert found["flicker"] == pytest.approx(0.0, abs=1e-6)


def test_an_odd_look_does_not_make_them_unsound() -> None:
    found = measured(filmed(TEACHER, ODD))
    assert found["gravity"] == pytest.approx(0.15, abs=0.004)
    assert found["trajectory_error_px"] < 0.4
    assert found["object_permanence"] > 0.97
    assert found["interpenetration"] < 0.02
    assert found["bounce"] == pytest.approx(0.7, abs=0.03)
    assert found["flicker"] > 0.05


def test_base_corpus_is_wrong_in_the_stated_ways() -> None:
    clips = filmed(BASE_CORPUS, sentences=all_sentences())
    found = measured(clips, all_sentences())
    assert found["gravity"] == pytest.approx(0.05, abs=0.01)  # mean of U(-.05, .15)
    assert 2 < found["trajectory_error_px"] < 4
    assert found["interpenetration"] == pytest.approx(0.47, abs=0.1)  # .94 of the half that passes
    assert found["object_permanence"] > 0.95
    assert found["motion"] < 0.65


@pytest.mark.parametrize("gravity", [-0.05, 0.0, 0.05, 0.1, 0.2, 0.25])
def test_gravity_is_the_one_of_the_clip(gravity: float) -> None:
    clips = filmed(laws(gravity=(gravity, gravity)))
    found = measure(clips, SENTENCES)
    np.testing.assert_allclose(np.nanmean(found["gravity"]), gravity, atol=0.002)
    assert np.nanstd(found["gravity"]) < 0.004


def test_gravity_from_rest_is_the_steadier_of_the_two_fits() -> None:
    found = measure(filmed(TEACHER, ODD), SENTENCES)
    assert np.nanstd(found["gravity"]) < 0.6 * np.nanstd(found["gravity_free_fit"])


def test_free_fit_tells_speed_from_acceleration() -> None:
    """Balls that sink at a constant speed seem to accelerate from rest; the free fit knows."""
    t = np.arange(16)
    centres = np.full((1, 16, 2, 2), np.nan)
    centres[0, :, 0] = np.stack([np.full(16, 8.0), 4.0 + 0.5 * t], axis=1)
    tracks = tracks_of(centres)
    sentence = (ONE_BALL[0],)
    assert gravity(tracks, sentence)[0] > 0.08
    assert gravity_free_fit(tracks, sentence)[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("restitution", [0.3, 0.5, 0.9])
def test_bounce_is_the_restitution(restitution: float) -> None:
    found = measure(filmed(laws(restitution=(restitution, restitution))), SENTENCES)
    assert np.nanmean(found["bounce"]) == pytest.approx(restitution, abs=0.06)


def test_balls_that_pass_through_each_other_are_seen() -> None:
    ghosts = filmed(laws(collide=0.0), sentences=MEETING)
    assert measured(ghosts, MEETING)["interpenetration"] > 0.85
    solid = filmed(laws(collide=1.0, gravity=(0.0, 0.1)), sentences=MEETING)
    assert measured(solid, MEETING)["interpenetration"] == 0.0
    assert np.isnan(measure(filmed(TEACHER), SENTENCES)["interpenetration"]).sum() == sum(
        not sentence.meets for sentence in SENTENCES
    )


def test_trajectory_error_counts_pixels() -> None:
    """A track that stands off by (.3, .4) from the second frame on is .5 px off."""
    starts = np.full((len(ONE_BALL), 2, 2), np.nan)
    starts[:, 0] = [8.0, 5.0]
    centres = valid_trajectories(starts, ONE_BALL, 16)
    assert trajectory_error(tracks_of(centres), ONE_BALL).max() == pytest.approx(0, abs=1e-12)
    moved = centres.copy()
    moved[:, 1:] += [0.3, 0.4]
    error = trajectory_error(tracks_of(moved), ONE_BALL)
    np.testing.assert_allclose(error, 0.5 * 15 / 16)


def test_valid_trajectories_start_where_asked_and_stay_in_the_room() -> None:
    starts = np.full((len(MEETING), 2, 2), 20.0)
    paths = valid_trajectories(starts, MEETING, 16)
    assert ((paths > 0) & (paths < 16)).all()
    sizes = ball_radii(MEETING)
    np.testing.assert_allclose(paths[:, 0], (16 - sizes)[..., None] * np.ones(2))


def test_vanishing_never_pays() -> None:
    clips = filmed(TEACHER, sentences=ONE_BALL)
    gone = clips.copy()
    gone[:, 6:] = GROUND
    before, after = measured(clips, ONE_BALL), measured(gone, ONE_BALL)
    assert after["object_permanence"] == pytest.approx(6 / 16)
    assert after["trajectory_error_px"] > before["trajectory_error_px"] + 1
    assert after["motion"] < before["motion"]
    never = measured(np.full_like(clips, GROUND), ONE_BALL)
    assert never["object_permanence"] == 0.0
    assert never["trajectory_error_px"] > 1


def test_fading_and_ghosts_count_against_permanence() -> None:
    clips = filmed(TEACHER, sentences=ONE_BALL)
    fading = np.linspace(1.0, 0.0, 16, dtype=np.float32)[None, :, None, None, None]
    faded = GROUND + fading * (clips - GROUND)
    assert measured(faded, ONE_BALL)["object_permanence"] < 0.7
    ghost = clips.copy()
    ghost[:, 8:] = np.maximum(clips[:, 8:], clips[:, 8:, :, ::-1, ::-1])
    assert measured(ghost, ONE_BALL)["object_permanence"] < 0.75
    dim = measured(GROUND + 0.6 * (clips - GROUND), ONE_BALL)
    assert dim["object_permanence"] == 1.0  # a look, not a loss


def test_a_frozen_clip_does_not_move() -> None:
    clips = filmed(TEACHER)
    frozen = np.repeat(clips[:, :1], 16, axis=1)
    found = measured(frozen)
    assert found["motion"] == pytest.approx(0.0, abs=1e-9)
    assert found["gravity"] == pytest.approx(0.0, abs=1e-9)
    assert found["trajectory_error_px"] > 3
    assert found["object_permanence"] == 1.0


def test_sharpness_falls_with_blur_and_does_not_ask_for_motion() -> None:
    clips = filmed(TEACHER)
    soft = 0.5 * clips
    soft[..., 1:] += 0.25 * clips[..., :-1]
    soft[..., :-1] += 0.25 * clips[..., 1:]
    sharp = measured(clips)["sharpness"]
    assert measured(soft)["sharpness"] < 0.9 * sharp
    frozen = np.repeat(clips[:, :1], 16, axis=1)
    assert measured(frozen)["sharpness"] == pytest.approx(sharp, rel=0.05)


def test_flicker_sees_pumping_light_and_grain_but_no_ball() -> None:
    clips = filmed(TEACHER)
    pumping = clips + 0.04 * (np.arange(16) % 2)[None, :, None, None, None].astype(np.float32)
    assert measured(pumping)["flicker"] == pytest.approx(0.08, abs=0.005)  # 2 x .04
    assert measured(filmed(TEACHER, Look(grain=0.05)))["flicker"] > 0.01


def test_order_and_company_do_not_matter() -> None:
    clips = filmed(TEACHER, ODD)
    together = measure(clips, SENTENCES)
    for number in (0, 50, 100):
        alone = measure(clips[number : number + 1], SENTENCES[number : number + 1])
        for name in NAMES:
            np.testing.assert_allclose(
                alone[name][0], together[name][number], rtol=1e-9, err_msg=name
            )


def test_no_clips_give_no_values() -> None:
    found = measure(np.zeros((0, 16, 3, 16, 16), np.float32), ())
    assert all(values.shape == (0,) for values in found.values())


def test_what_cannot_be_measured_is_refused() -> None:
    clips = filmed(TEACHER)[:2].copy()
    with pytest.raises(ValueError, match="rgb must be"):
        measure(clips, SENTENCES[:1])
    clips[0, 0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        measure(clips, SENTENCES[:2])


def tracks_of(centres: np.ndarray) -> Tracks:
    """Tracks of balls that are seen throughout at the given places."""
    named = np.isfinite(centres[:, 0, :, 0])
    seen = np.isfinite(centres[..., 0])
    masses = np.where(seen, 10.0, np.nan)
    return Tracks(centres, masses, seen, named)


def test_colours_and_sizes_are_the_sentences_own() -> None:
    assert np.isnan(ball_colours(ONE_BALL)[:, 1]).all()
    assert np.isfinite(ball_colours(MEETING)).all()
    assert set(np.unique(ball_radii(MEETING))) == {1.6, 2.2}
