"""Rigid-body motion of a scene by pymunk: deterministic, frictionless, without spin.

Substeps are corrected so that free flight is the exact parabola: Chipmunk moves bodies before it
updates their velocity, which lags the parabola by acceleration * t * dt / 2; starting half a
substep's acceleration ahead removes the lag.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pymunk

from afd.world.scenes import NUM_FRAMES, ROOM_PX, ClipLaws, Scene

# A contact is found up to one substep late: at the fastest (2 px/frame) .25 px before resolution.
SUBSTEPS = 8
WALL_PX = 8.0  # thick, so that nothing can tunnel


def simulate(scene: Scene, laws: ClipLaws, num_frames: int = NUM_FRAMES) -> npt.NDArray[np.float64]:
    """Centres of the bodies at every frame: [num_frames, bodies, 2], px; frame 0 is the start."""
    space = pymunk.Space()
    space.gravity = (0.0, laws.gravity)
    space.collision_slop = 0.005  # Chipmunk's default .1 is a sixteenth of a small ball's radius
    space.add(*_room(space, laws.restitution))
    step = 1.0 / SUBSTEPS
    bodies: list[pymunk.Body] = []
    for number, ball in enumerate(scene.bodies):
        body = pymunk.Body(mass=ball.radius**2, moment=math.inf)
        body.position = ball.position
        body.velocity = (ball.velocity[0], ball.velocity[1] + 0.5 * laws.gravity * step)
        shape = pymunk.Circle(body, ball.radius)
        shape.elasticity = math.sqrt(laws.restitution)  # Chipmunk multiplies both sides' values
        shape.friction = 0.0
        if not laws.collide:  # each ball in a category of its own that meets the room only
            shape.filter = pymunk.ShapeFilter(categories=2 << number, mask=1)
        space.add(body, shape)
        bodies.append(body)
    positions = np.empty((num_frames, len(bodies), 2))
    for frame in range(num_frames):
        if frame:
            for _ in range(SUBSTEPS):
                space.step(step)
        for number, body in enumerate(bodies):
            positions[frame, number] = body.position
    return positions


def simulate_many(
    scenes: Sequence[Scene], laws: Sequence[ClipLaws], num_frames: int = NUM_FRAMES
) -> npt.NDArray[np.float64]:
    """`simulate` for many clips: [clips, num_frames, bodies, 2]; absent second bodies are nan."""
    num_bodies = max((len(scene.bodies) for scene in scenes), default=0)
    positions = np.full((len(scenes), num_frames, num_bodies, 2), np.nan)
    for number, (scene, law) in enumerate(zip(scenes, laws, strict=True)):
        positions[number, :, : len(scene.bodies)] = simulate(scene, law, num_frames)
    return positions


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
