"""Scenes: what every sentence starts with, under any draw."""

import math

import numpy as np
import pytest

from afd import seeds
from afd.world.scenes import (
    BASE_CORPUS,
    RADIUS_PX,
    ROOM_PX,
    TEACHER,
    Laws,
    draw_laws,
    draw_scene,
    nominal_velocity,
)
from afd.world.sentences import all_sentences


def test_balls_start_clear_of_walls_and_of_each_other() -> None:
    for number, sentence in enumerate(all_sentences()):
        scene = draw_scene(sentence, TEACHER, seeds.numpy_generator(number, "test"))
        for body, ball in zip(scene.bodies, sentence.balls, strict=True):
            assert body.radius == RADIUS_PX[ball.size]
            assert all(body.radius + 0.5 < x < ROOM_PX - body.radius - 0.5 for x in body.position)
        if len(scene.bodies) == 2:
            left, right = scene.bodies
            assert right.position[0] - left.position[0] > left.radius + right.radius + 1
            assert abs(left.position[1] - right.position[1]) < 0.13


def test_teacher_starts_at_the_nominal_velocity_without_vertical_speed() -> None:
    for sentence in all_sentences():
        scene = draw_scene(sentence, TEACHER, seeds.numpy_generator(1))
        assert tuple(body.velocity for body in scene.bodies) == nominal_velocity(sentence)
        assert all(velocity[1] == 0 for velocity in nominal_velocity(sentence))


def test_motion_is_inward() -> None:
    for sentence in all_sentences():
        for ball, velocity in zip(sentence.balls, nominal_velocity(sentence), strict=True):
            assert not (ball.place == "left" and velocity[0] < 0)
            assert not (ball.place == "right" and velocity[0] > 0)


def test_velocity_jitter_has_the_stated_spread() -> None:
    sentence = all_sentences()[0]
    laws = Laws((0, 0), (1, 1), 1.0, velocity_jitter=0.03)
    speeds = [draw_scene(sentence, laws, seeds.numpy_generator(n)).bodies[0] for n in range(2000)]
    spread = np.std([body.velocity for body in speeds], axis=0)
    np.testing.assert_allclose(spread, 0.03, rtol=0.06)


def test_laws_of_a_clip_lie_in_their_ranges() -> None:
    drawn = [draw_laws(BASE_CORPUS, seeds.numpy_generator(n)) for n in range(2000)]
    gravity = np.array([law.gravity for law in drawn])
    assert gravity.min() >= -0.05
    assert gravity.max() <= 0.15
    assert abs(gravity.mean() - 0.05) < 4 * 0.2 / math.sqrt(12 * 2000)
    assert abs(np.mean([law.collide for law in drawn]) - 0.5) < 0.045  # 4 standard errors
    assert all(draw_laws(TEACHER, seeds.numpy_generator(n)).collide for n in range(100))


@pytest.mark.parametrize(
    ("laws", "field"),
    [
        (((0.2, 0.1), (0.5, 0.5), 1.0, 0.0), "gravity"),
        (((0.1, math.nan), (0.5, 0.5), 1.0, 0.0), "gravity"),
        (((0.1, 0.1), (0.5, 1.1), 1.0, 0.0), "restitution"),
        (((0.1, 0.1), (0.5, 0.5), 1.5, 0.0), "collide"),
        (((0.1, 0.1), (0.5, 0.5), 1.0, -0.1), "velocity_jitter"),
        (((0.1, 0.1), (0.5, 0.5), 1.0, math.inf), "velocity_jitter"),
    ],
)
def test_laws_that_cannot_be_are_refused_by_field(laws: tuple, field: str) -> None:
    with pytest.raises(ValueError, match=rf"laws\.{field}"):
        Laws(*laws)
