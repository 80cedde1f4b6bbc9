"""Physics and quality of pocket-world clips, per clip, from pixels.

Every metric is [N] float64, nan where it is not defined for that clip (no meeting balls, no free
fall long enough); averages skip nan and are given with their number of clips. Units: px of the
16x16 grid, frames. The reference is the teacher's laws, never a discriminator.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from afd.evaluation.metrics import fall_fit
from afd.evaluation.metrics.tracking import Tracks, early_mass, track
from afd.world.physics import simulate_many
from afd.world.rendering import RGB
from afd.world.scenes import (
    ROOM_PX,
    TEACHER,
    Body,
    ClipLaws,
    Laws,
    Scene,
    nominal_velocity,
    radii,
)
from afd.world.sentences import Sentence

VERSION = 2  # enters the evaluation card; raise it when a definition below changes

MASS_BAND = (0.5, 1.6)  # of the clip's own early mass: a half vanished ball, most of a second one
CLOSEST_SHARE = 0.6  # of the sum of radii: a discretely sampled, blurred contact stays above .7

Floats = npt.NDArray[np.float64]
Clips = npt.NDArray[np.float32]

NAMES = (
    "trajectory_error_px",
    "gravity",
    "gravity_free_fit",
    "object_permanence",
    "interpenetration",
    "bounce",
    "motion",
    "sharpness",
    "flicker",
)


def measure(clips: Clips, sentences: Sequence[Sentence], laws: Laws = TEACHER) -> dict[str, Floats]:
    """Return all metrics of NAMES for clips [N, F, 3, 16, 16] of the given sentences."""
    tracks = track(clips, ball_colours(sentences))
    return {
        "trajectory_error_px": trajectory_error(tracks, sentences, laws),
        "gravity": gravity(tracks, sentences),
        "gravity_free_fit": gravity_free_fit(tracks, sentences),
        "object_permanence": object_permanence(tracks),
        "interpenetration": interpenetration(tracks, sentences),
        "bounce": bounce(tracks, sentences),
        "motion": motion(tracks),
        "sharpness": sharpness(clips),
        "flicker": flicker(clips),
    }


def ball_colours(sentences: Sequence[Sentence]) -> Floats:
    """Return the balls' colours [N, 2, 3], nan where a sentence has one ball."""
    rgb = np.full((len(sentences), 2, 3), np.nan)
    for row, sentence in zip(rgb, sentences, strict=True):
        row[: len(sentence.balls)] = [RGB[ball.colour] for ball in sentence.balls]
    return rgb


def ball_radii(sentences: Sequence[Sentence]) -> Floats:
    """Return the balls' radii [N, 2] in px, nan where a sentence has one ball."""
    sizes = np.full((len(sentences), 2), np.nan)
    for row, sentence in zip(sizes, sentences, strict=True):
        row[: len(sentence.balls)] = radii(sentence)
    return sizes


def valid_trajectories(
    starts: Floats, sentences: Sequence[Sentence], num_frames: int, laws: Laws = TEACHER
) -> Floats:
    """Simulate balls from `starts` [N, 2, 2] by the teacher's laws: [N, num_frames, 2, 2], px.

    Velocities are the sentences' nominal ones; laws are the middle of their ranges. A start that
    lies inside a wall is moved to the nearest place inside the room.
    """
    law = ClipLaws(float(np.mean(laws.gravity)), float(np.mean(laws.restitution)), True)
    scenes: list[Scene] = []
    for start, sentence in zip(starts, sentences, strict=True):
        bodies: list[Body] = []
        for place, velocity, radius in zip(
            start, nominal_velocity(sentence), radii(sentence), strict=False
        ):
            x, y = np.clip(place, radius, ROOM_PX - radius)
            bodies.append(Body((float(x), float(y)), velocity, radius))
        scenes.append(Scene(tuple(bodies)))
    paths = np.full((len(sentences), num_frames, starts.shape[1], 2), np.nan)
    simulated = simulate_many(scenes, [law] * len(scenes), num_frames)
    paths[:, :, : simulated.shape[2]] = simulated
    return paths


def trajectory_error(tracks: Tracks, sentences: Sequence[Sentence], laws: Laws = TEACHER) -> Floats:
    """Return the mean distance of tracked and valid centres over frames and balls, px.

    The valid trajectory starts at the tracked first position with the prompt's nominal velocity.
    A lost ball counts at its last tracked place, so that no student gains by losing it.
    """
    valid = valid_trajectories(tracks.centres[:, 0], sentences, tracks.centres.shape[1], laws)
    distance = np.linalg.norm(tracks.centres - valid, axis=-1)
    return _mean(distance, tracks.named[:, None] & np.ones_like(tracks.seen))


def gravity(tracks: Tracks, sentences: Sequence[Sentence]) -> Floats:
    """Return the acceleration from rest before first contact, px/frame^2, mean over balls.

    Every sentence starts without vertical speed, so y - y0 = g t^2 / 2 is fitted, by least squares
    through the origin, to the frames up to the first one in which the ball is lost or near floor
    or ceiling; nan below fall_fit.MIN_REST_FRAMES of them. Balls that meet do so at one height: the
    impact is horizontal and leaves the fall as it is.
    """
    length = fall_fit.free_frames(tracks, ball_radii(sentences))
    acceleration = fall_fit.from_rest(tracks.centres[..., 1], length)
    return _mean(acceleration, tracks.named & np.isfinite(acceleration))


def gravity_free_fit(tracks: Tracks, sentences: Sequence[Sentence]) -> Floats:
    """Return `gravity` with a free vertical start speed; nan below fall_fit.MIN_FALL_FRAMES.

    It separates a ball that accelerates from one that only moves. It is noisier, since few frames
    do not separate speed and acceleration well: on teacher clips of the odd look the spread over
    clips is .012, from rest .004; of the clean look .003 and .001.
    """
    length = fall_fit.free_frames(tracks, ball_radii(sentences))
    acceleration, _ = fall_fit.free_fit(tracks.centres[..., 1], length)
    return _mean(acceleration, tracks.named & np.isfinite(acceleration))


def bounce(tracks: Tracks, sentences: Sequence[Sentence]) -> Floats:
    """Return the speed after the first landing over that before, mean over balls that land."""
    ratio = fall_fit.rebound(tracks, ball_radii(sentences))
    return _mean(ratio, tracks.named & np.isfinite(ratio))


def object_permanence(tracks: Tracks) -> Floats:
    """Return the share of frames x balls whose mass is within MASS_BAND of the early mass.

    The reference is the clip's OWN early mass, so that a dimmer look does not count. A ball that
    vanishes or fades falls below the band, a ghost second ball of its colour rises above it. A ball
    that has no mass from the start counts as absent throughout.
    """
    early = early_mass(tracks.masses)[:, None]
    with np.errstate(invalid="ignore"):
        low, high = MASS_BAND
        within = (tracks.masses >= low * early) & (tracks.masses <= high * early) & (early > 0)
    return _mean(within.astype(np.float64), tracks.named[:, None] & np.ones_like(within))


def interpenetration(tracks: Tracks, sentences: Sequence[Sentence]) -> Floats:
    """Return 1 where two balls that meet pass into each other, 0 where not, nan elsewhere.

    They do where their centres come closer than CLOSEST_SHARE of the sum of their radii, or when
    the left ball is ever to the right of the right one, in frames in which both are tracked.
    """
    passed = np.full(len(sentences), np.nan)
    meets = np.array([sentence.meets for sentence in sentences], dtype=bool)
    if not meets.any():
        return passed
    centres, both = tracks.centres[meets], tracks.seen[meets].all(axis=-1)
    gap = centres[:, :, 1] - centres[:, :, 0]
    touch = ball_radii(sentences)[meets].sum(axis=-1)[:, None]
    wrong = (np.linalg.norm(gap, axis=-1) < CLOSEST_SHARE * touch) | (gap[..., 0] < 0)
    passed[meets] = (wrong & both).any(axis=1)
    return passed


def motion(tracks: Tracks) -> Floats:
    """Return the mean speed of the tracked centres, px/frame; that of a lost ball is 0."""
    speed = np.linalg.norm(np.diff(tracks.centres, axis=1), axis=-1)
    return _mean(speed, tracks.named[:, None] & np.ones_like(speed, dtype=bool))


def sharpness(clips: Clips) -> Floats:
    """Return the mean absolute difference of neighbouring pixels at the 2 % strongest edges.

    The strongest edges belong to the balls, and motion does not change them.
    """
    across = np.abs(np.diff(clips, axis=-1)).max(axis=2)[:, :, :-1]
    down = np.abs(np.diff(clips, axis=-2)).max(axis=2)[..., :-1]
    edges = np.maximum(across, down).astype(np.float64)
    edges = edges.reshape(len(clips), math.prod(edges.shape[1:]))
    count = max(1, round(0.02 * edges.shape[1]))
    return np.partition(edges, -count, axis=1)[:, -count:].mean(axis=1)


def flicker(clips: Clips) -> Floats:
    """Return the mean absolute second difference in time of the ground, grey levels in [0, 1].

    The ground is the quarter of the pixels that change least over the clip: a moving ball does
    not count, grain and pumping brightness do.
    """
    grey = clips.mean(axis=2, dtype=np.float64)
    grey = grey.reshape(*clips.shape[:2], math.prod(clips.shape[3:]))
    bend = np.abs(np.diff(grey, n=2, axis=1)).mean(axis=1)
    count = max(1, bend.shape[1] // 4)
    return np.partition(bend, count - 1, axis=1)[:, :count].mean(axis=1)


def _mean(values: Floats, used: npt.NDArray[np.bool_]) -> Floats:
    """Return the mean over all but the first axis where `used`; nan where nothing is used."""
    axes = tuple(range(1, values.ndim))
    count = used.sum(axis=axes)
    total = np.where(used, values, 0.0).sum(axis=axes)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
