"""Motion against closed forms and against pymunk stepped from start to end."""

import math

import numpy as np
import pymunk
import pytest

from afd import seeds
from afd.world import physics
from afd.world.physics import STEP, SUBSTEPS, simulate, simulate_many
from afd.world.scenes import (
    BASE_CORPUS,
    ROOM_PX,
    TEACHER,
    Body,
    ClipLaws,
    Laws,
    Scene,
    draw_laws,
    draw_scene,
)
from afd.world.sentences import all_sentences

LAW = ClipLaws(gravity=0.15, restitution=0.7, collide=True)


def drawn(laws: Laws, count: int) -> tuple[list[Scene], list[ClipLaws]]:
    sentences = all_sentences()
    scenes = [
        draw_scene(sentences[n * 5 % len(sentences)], laws, seeds.numpy_generator(n, "scene"))
        for n in range(count)
    ]
    return scenes, [draw_laws(laws, seeds.numpy_generator(n, "laws")) for n in range(count)]


def stepped(scene: Scene, laws: ClipLaws, num_frames: int) -> np.ndarray:
    """The obvious reference: pymunk from the first substep to the last."""
    space = pymunk.Space()
    space.gravity = (0.0, laws.gravity)
    space.collision_slop = 0.005
    space.add(*physics._room(space, laws.restitution))
    bodies = []
    for number, ball in enumerate(scene.bodies):
        body = pymunk.Body(mass=ball.radius**2, moment=math.inf)
        body.position = ball.position
        body.velocity = (ball.velocity[0], ball.velocity[1] + 0.5 * laws.gravity * STEP)
        shape = pymunk.Circle(body, ball.radius)
        shape.elasticity = math.sqrt(laws.restitution)
        if not laws.collide:
            shape.filter = pymunk.ShapeFilter(categories=2 << number, mask=1)
        space.add(body, shape)
        bodies.append(body)
    frames = [[tuple(body.position) for body in bodies]]
    for _ in range(num_frames - 1):
        for _ in range(SUBSTEPS):
            space.step(STEP)
        frames.append([tuple(body.position) for body in bodies])
    return np.array(frames)


@pytest.mark.parametrize("laws", [BASE_CORPUS, TEACHER], ids=["base corpus", "teacher"])
def test_shortcut_through_free_flight_changes_nothing(laws: Laws) -> None:
    scenes, clip_laws = drawn(laws, 150)
    quick = simulate_many(scenes, clip_laws)
    for number, (scene, law) in enumerate(zip(scenes, clip_laws, strict=True)):
        reference = stepped(scene, law, 16)
        np.testing.assert_allclose(
            quick[number, :, : len(scene.bodies)], reference, rtol=0, atol=1e-13
        )


def test_many_equals_each_alone() -> None:
    scenes, laws = drawn(BASE_CORPUS, 60)
    many = simulate_many(scenes, laws)
    for row, scene, law in zip(many, scenes, laws, strict=True):
        np.testing.assert_array_equal(row[:, : len(scene.bodies)], simulate(scene, law))
        assert np.isnan(row[:, len(scene.bodies) :]).all()


def test_free_flight_is_the_parabola() -> None:
    scene = Scene((Body((4.0, 3.0), (0.3, 0.1), 1.6),))
    t = np.arange(11)
    centres = simulate(scene, LAW, 11)[:, 0]
    np.testing.assert_allclose(centres[:, 0], 4 + 0.3 * t, atol=1e-12)
    np.testing.assert_allclose(centres[:, 1], 3 + 0.1 * t + 0.5 * 0.15 * t**2, atol=1e-12)


@pytest.mark.parametrize("restitution", [0.0, 0.4, 0.7, 1.0])
def test_bounce_keeps_the_stated_share_of_speed(restitution: float) -> None:
    law = ClipLaws(0.15, restitution, collide=True)
    y = simulate(Scene((Body((8.0, 6.0), (0.0, 0.0), 2.0),)), law, 40)[:, 0, 1]
    fall = 16.0 - 2.0 - 6.0
    landed = int(np.argmax(y > 13.0))
    top = y[landed + 1 : landed + 20].min()
    rise = 14.0 - top
    assert rise == pytest.approx(restitution**2 * fall, abs=0.5)  # contact is up to .2 px late


def test_meeting_balls_keep_momentum_and_lose_the_stated_speed() -> None:
    law = ClipLaws(0.0, 0.7, collide=True)
    scene = Scene((Body((4.0, 8.0), (0.5, 0.0), 1.6), Body((12.0, 8.0), (-0.3, 0.0), 2.2)))
    x = simulate(scene, law, 16)[:, :, 0]
    before, after = x[1] - x[0], x[-1] - x[-2]
    mass = np.array([1.6**2, 2.2**2])
    assert mass @ after == pytest.approx(mass @ before, abs=1e-9)
    assert (after[1] - after[0]) == pytest.approx(0.7 * (before[0] - before[1]), abs=1e-6)


def test_without_collide_balls_pass_through_each_other_but_not_the_floor() -> None:
    scene = Scene((Body((4.0, 5.0), (0.5, 0.0), 1.6), Body((12.0, 5.0), (-0.5, 0.0), 1.6)))
    centres = simulate(scene, ClipLaws(0.15, 0.7, collide=False), 16)
    np.testing.assert_allclose(centres[:, 0, 0], 4 + 0.5 * np.arange(16), atol=1e-9)
    np.testing.assert_allclose(centres[:, 1, 0], 12 - 0.5 * np.arange(16), atol=1e-9)
    assert (centres[..., 1] < ROOM_PX - 1.6 + 0.25).all()


def test_nothing_leaves_the_room() -> None:
    wild = Laws((-0.3, 0.5), (0.0, 1.0), 0.7, velocity_jitter=0.8)
    scenes, laws = drawn(wild, 200)
    centres = simulate_many(scenes, laws, 40)
    for row, scene in zip(centres, scenes, strict=True):
        for body, ball in enumerate(scene.bodies):
            clear = np.minimum(row[:, body], ROOM_PX - row[:, body]) - ball.radius
            assert clear.min() > -0.6  # one substep at the speed of a violent world


def test_teacher_lets_meeting_balls_touch_well_before_the_last_third() -> None:
    meeting = [sentence for sentence in all_sentences() if sentence.meets]
    for number, sentence in enumerate(meeting):
        scene = draw_scene(sentence, TEACHER, seeds.numpy_generator(number))
        centres = simulate(scene, LAW)
        gap = np.linalg.norm(centres[:, 1] - centres[:, 0], axis=-1)
        touch = sum(body.radius for body in scene.bodies)
        assert gap.argmin() <= 8, sentence.text
        assert 0.85 * touch < gap.min() < touch + 0.6, sentence.text
        assert gap[-1] > gap.min() + 0.3, sentence.text  # and they part again


def test_no_scenes_give_no_positions() -> None:
    assert simulate_many([], []).shape == (0, 16, 0, 2)
