"""Rigid-body motion of a scene by pymunk: deterministic, frictionless, without spin.

Substeps are corrected so that free flight is the exact parabola: Chipmunk moves bodies before it
updates their velocity, which lags the parabola by acceleration * t * dt / 2; starting half a
substep's acceleration ahead removes the lag.

Before anything can touch, Chipmunk only adds: place += velocity * dt, velocity += gravity * dt.
Those additions are done here for all clips at once, in the same order, to the same bits; pymunk
takes over one substep before the first contact. Against pymunk throughout: 1,500 clips each of the
base corpus and the teacher agree to 2e-15 px. (Where a ball touches floor and ball in one substep,
the order in which Chipmunk solves contacts depends on what it did before.)
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pymunk

from afd.world.scenes import NUM_FRAMES, ROOM_PX, Body, ClipLaws, Scene

# A contact is found up to one substep late: at the fastest (2 px/frame) .25 px before resolution.
SUBSTEPS = 8
STEP = 1.0 / SUBSTEPS
WALL_PX = 8.0  # thick, so that nothing can tunnel
CONTACT_MARGIN_PX = 1e-6  # far above rounding: nearer than this, pymunk decides

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def simulate(scene: Scene, laws: ClipLaws, num_frames: int = NUM_FRAMES) -> Floats:
    """Centres of the bodies at every frame: [num_frames, bodies, 2], px; frame 0 is the start."""
    return simulate_many([scene], [laws], num_frames)[0]


def simulate_many(
    scenes: Sequence[Scene], laws: Sequence[ClipLaws], num_frames: int = NUM_FRAMES
) -> Floats:
    """`simulate` for many clips: [clips, num_frames, bodies, 2]; absent second bodies are nan."""
    if not scenes:
        return np.empty((0, num_frames, 0, 2))
    num_substeps = SUBSTEPS * (num_frames - 1)
    places, speeds = _free_flight(scenes, laws, num_substeps)
    first = _first_contact(scenes, laws, places)
    positions = places[:, ::SUBSTEPS].copy()
    for number in map(int, np.flatnonzero(first < num_substeps)):
        start, scene = int(first[number]), scenes[number]
        state = [
            Body(
                (float(places[number, start, body, 0]), float(places[number, start, body, 1])),
                (float(speeds[number, start, body, 0]), float(speeds[number, start, body, 1])),
                ball.radius,
            )
            for body, ball in enumerate(scene.bodies)
        ]
        rest = positions[number, start // SUBSTEPS + 1 :, : len(state)]
        _simulate_contacts(state, laws[number], SUBSTEPS - start % SUBSTEPS, rest)
    return positions


def _free_flight(
    scenes: Sequence[Scene], laws: Sequence[ClipLaws], num_substeps: int
) -> tuple[Floats, Floats]:
    """Places and velocities at every substep as if nothing were in the way: [N, K + 1, B, 2]."""
    num_bodies = max(len(scene.bodies) for scene in scenes)
    places = np.full((len(scenes), num_substeps + 1, num_bodies, 2), np.nan)
    speeds = np.zeros_like(places)
    for number, (scene, law) in enumerate(zip(scenes, laws, strict=True)):
        for body, ball in enumerate(scene.bodies):
            places[number, 0, body] = ball.position
            ahead = ball.velocity[1] + 0.5 * law.gravity * STEP
            speeds[number, 0, body] = ball.velocity[0], ahead
    speeds[:, 1:, :, 1] = np.array([law.gravity for law in laws])[:, None, None] * STEP
    # Accumulation adds one after the other, as Chipmunk does; another order rounds otherwise.
    np.add.accumulate(speeds, axis=1, out=speeds)
    places[:, 1:] = speeds[:, :-1] * STEP
    np.add.accumulate(places, axis=1, out=places)
    return places, speeds


def _first_contact(
    scenes: Sequence[Scene], laws: Sequence[ClipLaws], places: Floats
) -> npt.NDArray[np.int64]:
    """[N] the last substep that is surely before any contact; the number of substeps if none."""
    num_bodies = places.shape[2]
    sizes = np.full((len(scenes), num_bodies), np.nan)
    for row, scene in zip(sizes, scenes, strict=True):
        row[: len(scene.bodies)] = [ball.radius for ball in scene.bodies]
    reach = sizes[:, None, :, None] + CONTACT_MARGIN_PX
    outside: Bools = (places < reach) | (places > ROOM_PX - reach)
    touches: Bools = np.any(outside, axis=(2, 3))
    if num_bodies == 2:
        gap = places[:, :, 0] - places[:, :, 1]
        near = np.hypot(gap[..., 0], gap[..., 1]) < sizes.sum(axis=1)[:, None] + CONTACT_MARGIN_PX
        touches |= near & np.array([law.collide for law in laws])[:, None]
    after: Bools = touches[:, 1:]  # Chipmunk moves before it looks for contacts
    first = after.argmax(axis=1).astype(np.int64)
    return np.where(after.any(axis=1), first, np.int64(places.shape[1] - 1))


def _simulate_contacts(
    bodies: Sequence[Body], laws: ClipLaws, first_substeps: int, rest: Floats
) -> None:
    """Run pymunk from `bodies`, in px/frame, and write the frames that follow into `rest`.

    The first of them is `first_substeps` away.
    """
    space = pymunk.Space()
    space.gravity = (0.0, laws.gravity)
    space.collision_slop = 0.005  # Chipmunk's default .1 is a sixteenth of a small ball's radius
    space.add(*_room(space, laws.restitution))
    moving: list[pymunk.Body] = []
    for number, ball in enumerate(bodies):
        body = pymunk.Body(mass=ball.radius**2, moment=math.inf)
        body.position = ball.position
        body.velocity = ball.velocity
        shape = pymunk.Circle(body, ball.radius)
        shape.elasticity = math.sqrt(laws.restitution)  # Chipmunk multiplies both sides' values
        shape.friction = 0.0
        if not laws.collide:  # each ball in a category of its own that meets the room only
            shape.filter = pymunk.ShapeFilter(categories=2 << number, mask=1)
        space.add(body, shape)
        moving.append(body)
    for frame in range(len(rest)):
        for _ in range(SUBSTEPS if frame else first_substeps):
            space.step(STEP)
        for number, body in enumerate(moving):
            rest[frame, number] = body.position


def _room(space: pymunk.Space, restitution: float) -> list[pymunk.Segment]:
    near, far, end = -WALL_PX, ROOM_PX + WALL_PX, ROOM_PX + 2 * WALL_PX
    corners = [
        ((-end, far), (end, far)),
        ((-end, near), (end, near)),
        ((near, -end), (near, end)),
        ((far, -end), (far, end)),
    ]
    room: list[pymunk.Segment] = []
    for start, stop in corners:
        wall = pymunk.Segment(space.static_body, start, stop, WALL_PX)
        wall.elasticity = math.sqrt(restitution)
        wall.friction = 0.0
        wall.filter = pymunk.ShapeFilter(categories=1)
        room.append(wall)
    return room
