"""Tracking against discs whose place is known, under every look, and against what is lost."""

import numpy as np
import pytest

from afd import seeds
from afd.evaluation.metrics.pocket import ball_colours
from afd.evaluation.metrics.tracking import early_mass, track
from afd.world.physics import simulate
from afd.world.rendering import CLEAN, GROUND, ODD, RGB, Look, colours, render
from afd.world.scenes import TEACHER, draw_laws, draw_scene, radii
from afd.world.sentences import COLOURS, Sentence, all_sentences

SENTENCES = all_sentences()[::11]
DIM = Look(contrast=(0.4, 0.4), background=(0.3, 0.3))


def filmed(sentences: tuple[Sentence, ...], look: Look) -> tuple[np.ndarray, np.ndarray]:
    """Clips [N, F, 3, 16, 16] and true centres [N, F, 2, 2], nan for an absent second ball."""
    clips, places = [], np.full((len(sentences), 16, 2, 2), np.nan)
    for number, sentence in enumerate(sentences):
        scene = draw_scene(sentence, TEACHER, seeds.numpy_generator(number, "scene"))
        path = simulate(scene, draw_laws(TEACHER, seeds.numpy_generator(number, "laws")))
        places[number, :, : path.shape[1]] = path
        draw = seeds.numpy_generator(number, "look")
        clips.append(render(path, radii(sentence), colours(sentence), 16, look, draw))
    return np.stack(clips), places


def still(place: tuple[float, float], radius: float, colour: str, look: Look = CLEAN) -> np.ndarray:
    """One clip [1, 16, 3, 16, 16] of a ball that hangs in the air."""
    path = np.tile(np.array(place), (16, 1, 1))
    draw = seeds.numpy_generator(1, "look")
    return render(path, [radius], np.array([RGB[colour]]), 16, look, draw)[None]


@pytest.mark.parametrize(("look", "worst"), [(CLEAN, 0.15), (DIM, 0.15)])
def test_tracked_centres_are_the_rendered_ones(look: Look, worst: float) -> None:
    clips, places = filmed(SENTENCES, look)
    tracks = track(clips, ball_colours(SENTENCES))
    distance = np.linalg.norm(tracks.centres - places, axis=-1)
    assert np.array_equal(np.isnan(distance), np.isnan(places[..., 0]))
    assert np.nanmean(distance) < 0.05
    # Two balls in contact share pixels; alone, no frame is off by more.
    alone = np.array([len(sentence.balls) == 1 for sentence in SENTENCES])
    assert np.nanmax(distance[alone]) < worst


def test_grain_and_dim_colours_cost_a_fifth_of_a_pixel_on_average() -> None:
    clips, places = filmed(SENTENCES, ODD)
    distance = np.linalg.norm(track(clips, ball_colours(SENTENCES)).centres - places, axis=-1)
    assert np.nanmean(distance) < 0.25


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("radius", [1.6, 2.2])
def test_mass_is_area_times_contrast_wherever_the_ball_is(colour: str, radius: float) -> None:
    rgb = np.array([[RGB[colour]]])
    masses = [
        track(still(place, radius, colour), rgb).masses.mean()
        for place in ((8.0, 8.0), (8.5, 7.3), (radius, 8.0), (8.0, 16 - radius))
    ]
    assert np.ptp(masses) < 0.1 * np.mean(masses)  # the floor cuts edges by where they fall
    dim = track(still((8.0, 8.0), radius, colour, DIM), rgb).masses.mean()
    assert dim == pytest.approx(0.4 * masses[0], rel=0.02)


def test_a_lost_ball_keeps_its_last_seen_place_and_has_no_mass() -> None:
    clips = still((5.0, 6.0), 2.2, "red")
    clips[:, 9:] = clips[0, 0, :, 0, 0][:, None, None]
    tracks = track(clips, np.array([[RGB["red"]]]))
    assert tracks.seen[0, :, 0].tolist() == [True] * 9 + [False] * 7
    assert np.allclose(tracks.centres[0, :, 0], (5.0, 6.0), atol=0.05)
    assert not tracks.masses[0, 9:].any()


def test_a_ghost_moves_mass_and_not_place() -> None:
    one, other = still((5.0, 4.0), 2.2, "red"), still((11.0, 12.0), 1.6, "red")
    clips = one.copy()
    clips[:, 8:] = np.maximum(one, other)[:, 8:]
    tracks = track(clips, np.array([[RGB["red"]]]))
    assert np.allclose(tracks.centres[0, :, 0], (5.0, 4.0), atol=0.05)
    assert (tracks.masses[0, 8:, 0] > 1.4 * early_mass(tracks.masses)[0, 0]).all()


def test_an_empty_clip_has_no_balls_and_finite_places() -> None:
    clips = np.full((1, 16, 3, 16, 16), 0.06, dtype=np.float32)
    tracks = track(clips, np.array([[RGB["red"], RGB["blue"]]]))
    assert not tracks.seen.any()
    assert not tracks.masses.any()
    assert np.isfinite(tracks.centres).all()


def test_a_ball_of_another_colour_counts_by_its_share_of_the_named_one() -> None:
    """Said in tracking.py: a ball that turns from green to blue keeps .6 of its mass."""
    rgb = np.array([[RGB["green"], [np.nan] * 3]])
    named = track(still((8.0, 8.0), 2.2, "green"), rgb).masses[0, 0, 0]
    tracks = track(still((8.0, 8.0), 2.2, "blue"), rgb)
    green, blue = np.array(RGB["green"]) - GROUND, np.array(RGB["blue"]) - GROUND
    assert tracks.masses[0, 0, 0] / named == pytest.approx(green @ blue / (green @ green), rel=0.02)
    assert np.isnan(tracks.masses[0, :, 1]).all()


def test_a_clip_is_tracked_the_same_alone_and_in_company() -> None:
    clips, _ = filmed(SENTENCES, ODD)
    rgb = ball_colours(SENTENCES)
    together = track(clips, rgb)
    for number in (0, 17, len(SENTENCES) - 1):
        alone = track(clips[number : number + 1], rgb[number : number + 1])
        assert np.array_equal(alone.centres[0], together.centres[number], equal_nan=True)
        assert np.array_equal(alone.masses[0], together.masses[number], equal_nan=True)


def test_wrong_shapes_and_values_that_are_not_finite_are_refused() -> None:
    clips = still((8.0, 8.0), 2.2, "red")
    rgb = np.array([[RGB["red"]]])
    with pytest.raises(ValueError, match=r"clips must be \[N, F, 3, H, W\]"):
        track(clips[0], rgb)
    with pytest.raises(ValueError, match="rgb must be"):
        track(clips, rgb[:, :, :2])
    clips[0, 3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite, first"):
        track(clips, rgb)
