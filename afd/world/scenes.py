"""From a sentence to a scene: bodies with a start position and velocity, and the laws they obey.

Units: px of the 16x16 student grid, frames. x to the right, y DOWN, pixel centres at .5; the room
is the square [0, 16] x [0, 16] with floor, walls and ceiling. Positions are centres of balls.
"""

from dataclasses import dataclass

import numpy as np

from afd.world.sentences import Sentence, Size

ROOM_PX = 16.0
NUM_FRAMES = 16
RADIUS_PX: dict[Size, float] = {"small": 1.6, "large": 2.2}
# Starts leave a large ball .6 px clear of wall and ceiling after jitter. From "low" a teacher's
# ball lands after 9-10 frames, from "high" after 12: both fall and bounce inside the clip.
HEIGHT_PX = {"high": 3.2, "low": 7.0}
PLACE_PX = {"left": 3.6, "middle": 8.0, "right": 12.4}
PAIR_PLACE_PX = {"left": 4.4, "right": 11.6}
# "slowly" closes the gap of 2.8-4 px between two balls in 5-7 frames, "quickly" in 2.5-4: contact
# lies well before the last third of a clip, and a slow ball from the middle reaches no wall.
SLOW_PX = 0.28
QUICK_PX = 0.55
JITTER_PX = 0.3

Range = tuple[float, float]


@dataclass(frozen=True)
class Laws:
    """The physics of a film-maker's world; ranges are drawn once per clip, uniformly.

    gravity          downward acceleration, px/frame^2
    restitution      speed kept by an impact (floor, walls and other balls), in [0, 1]
    collide          probability that the bodies of a clip feel each other at all
    velocity_jitter  standard deviation of each start velocity component around the nominal one,
                     px/frame
    """

    gravity: Range
    restitution: Range
    collide: float
    velocity_jitter: float

    def __post_init__(self) -> None:
        for name in ("gravity", "restitution"):
            low, high = getattr(self, name)
            if not (np.isfinite(low) and np.isfinite(high) and low <= high):
                raise ValueError(f"laws.{name}: a finite range low <= high, not ({low}, {high})")
        if not 0 <= self.restitution[0] <= self.restitution[1] <= 1:
            raise ValueError(f"laws.restitution: inside [0, 1], not {self.restitution}")
        if not 0 <= self.collide <= 1:
            raise ValueError(f"laws.collide: a probability in [0, 1], not {self.collide}")
        if not (np.isfinite(self.velocity_jitter) and self.velocity_jitter >= 0):
            raise ValueError(f"laws.velocity_jitter: finite, >= 0, not {self.velocity_jitter}")


@dataclass(frozen=True)
class ClipLaws:
    """The laws of one clip: one draw from Laws."""

    gravity: float
    restitution: float
    collide: bool


TEACHER = Laws(gravity=(0.15, 0.15), restitution=(0.7, 0.7), collide=1.0, velocity_jitter=0.0)
# Right look, wrong physics. The spread is what an advantage can select on (method: pocket world).
BASE_CORPUS = Laws(
    gravity=(-0.05, 0.15), restitution=(0.3, 0.95), collide=0.5, velocity_jitter=0.03
)


@dataclass(frozen=True)
class Body:
    """One ball: centre (x, y) in px, velocity (x, y) in px/frame, radius in px."""

    position: tuple[float, float]
    velocity: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    """The bodies of one clip at its first frame, in the order in which the sentence names them."""

    bodies: tuple[Body, ...]


def nominal_velocity(sentence: Sentence) -> tuple[tuple[float, float], ...]:
    """Start velocity of each ball as the sentence states it, px/frame."""
    if sentence.meets:
        speed = QUICK_PX if "quickly" in sentence.motion else SLOW_PX
        return ((speed, 0.0), (-speed, 0.0))
    if len(sentence.balls) == 2:
        return ((0.0, 0.0), (0.0, 0.0))
    words = sentence.motion.split()
    speed = QUICK_PX if "quickly" in words else SLOW_PX if "slowly" in words else 0.0
    return (((-speed if "left" in words else speed), 0.0),)


def radii(sentence: Sentence) -> tuple[float, ...]:
    """Radius of each ball, px."""
    return tuple(RADIUS_PX[ball.size] for ball in sentence.balls)


def draw_scene(sentence: Sentence, laws: Laws, generator: np.random.Generator) -> Scene:
    """One scene of `sentence`: nominal places and velocities with jitter.

    The balls of a pair share one height up to a fifth of the jitter: they meet face to face.
    """
    places = PLACE_PX if len(sentence.balls) == 1 else PAIR_PLACE_PX
    height = HEIGHT_PX[sentence.height] + JITTER_PX * generator.uniform(-1, 1)
    bodies: list[Body] = []
    for ball, velocity in zip(sentence.balls, nominal_velocity(sentence), strict=True):
        x_jitter, y_jitter = generator.uniform(-1, 1, size=2)
        jolt = laws.velocity_jitter * generator.standard_normal(2)
        bodies.append(
            Body(
                position=(
                    places[ball.place] + JITTER_PX * float(x_jitter),
                    float(height) + 0.2 * JITTER_PX * float(y_jitter),
                ),
                velocity=(velocity[0] + float(jolt[0]), velocity[1] + float(jolt[1])),
                radius=RADIUS_PX[ball.size],
            )
        )
    return Scene(tuple(bodies))


def draw_laws(laws: Laws, generator: np.random.Generator) -> ClipLaws:
    """Return the laws of one clip."""
    gravity = generator.uniform(*laws.gravity)
    restitution = generator.uniform(*laws.restitution)
    return ClipLaws(
        gravity=float(gravity),
        restitution=float(restitution),
        collide=bool(generator.uniform() < laws.collide),
    )
