"""Fits of fall and bounce to the height of tracked centres, per clip and ball.

Heights are y in px, downward, [N, F, B] as in tracking; results are [N, B], nan where a clip has
too few frames of it. Time is in frames.
"""

import numpy as np
import numpy.typing as npt

from afd.evaluation.metrics.tracking import Tracks
from afd.world.scenes import ROOM_PX

CONTACT_PX = 0.75  # nearer than this to floor or ceiling, a ball no longer falls freely
STRUCK = -1.2  # px/frame^2: a bend upward that is an impact; grain bends a track by .5
MIN_REST_FRAMES = 4
MIN_FALL_FRAMES = 6  # a free parabola through fewer has a spread of .03 px/frame^2 at .1 px noise
MIN_REBOUND_FRAMES = 3
MAX_REBOUND_FRAMES = 4
MIN_IMPACT = 0.3  # px/frame: a slower landing says little about restitution

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


def free_frames(tracks: Tracks, sizes: Floats) -> Counts:
    """Return the number of frames [N, B] from the start in which a ball falls freely.

    The fall ends where the ball is not tracked, near floor or ceiling, and at a bend that only an
    impact explains: faster than 2 px/frame, a ball can land and leave between two frames.
    Sizes are radii [N, B].
    """
    height = tracks.centres[..., 1]
    clearance = sizes[:, None] + CONTACT_PX
    with np.errstate(invalid="ignore"):
        # Near the ceiling only while rising: a high start lies close to it.
        rising = np.diff(height, axis=1, prepend=height[:, :1]) < -0.05
        bound: Bools = (height > ROOM_PX - clearance) | ((height < clearance) & rising)
        bend: Floats = np.diff(height, n=2, axis=1)  # around frames 1 to F - 2
        bound[:, 1:-1] |= (bend < STRUCK) & (height[:, 1:-1] > 0.5 * ROOM_PX)
    bound |= ~tracks.seen
    first: Counts = bound.argmax(axis=1).astype(np.int64)
    return np.where(bound.any(axis=1), first, np.int64(height.shape[1]))


def from_rest(height: Floats, length: Counts) -> Floats:
    """Return the acceleration g of y - y[0] = g t^2 / 2 over the first `length` frames."""
    num_frames = height.shape[1]
    half_square = 0.5 * np.arange(num_frames, dtype=np.float64)[:, None] ** 2
    used: Bools = (
        np.arange(num_frames, dtype=np.int64).reshape(-1, 1) < length[:, None]
    )  # [N, F, B]
    fallen = np.where(used, height - height[:, :1], 0.0)
    square = np.where(used, half_square**2, 0.0).sum(axis=1)
    shared = (half_square * fallen).sum(axis=1)
    enough = length >= MIN_REST_FRAMES
    return np.where(enough, shared / np.where(enough, square, 1.0), np.nan)


def free_fit(height: Floats, length: Counts) -> tuple[Floats, Floats]:
    """Fit parabolas to the first `length` frames; return acceleration and start speed."""
    num_frames = height.shape[1]
    acceleration, speed = np.full(length.shape, np.nan), np.full(length.shape, np.nan)
    for frames in range(MIN_FALL_FRAMES, num_frames + 1):
        rows: Bools = length == frames
        if rows.any():
            t = np.arange(frames, dtype=np.float64)
            fit = np.linalg.pinv(np.stack([np.ones(frames), t, 0.5 * t**2], axis=1))
            _, speed[rows], acceleration[rows] = fit @ height[:, :frames].swapaxes(1, 2)[rows].T
    return acceleration, speed


def rebound(tracks: Tracks, sizes: Floats) -> Floats:
    """Return the speed after the first landing over the speed before it, the restitution.

    Both speeds are at the frame of lowest place, of the parabolas before and after it with
    the fall's own acceleration. Nan without a free fall that reaches the floor faster than
    MIN_IMPACT, or with fewer than MIN_REBOUND_FRAMES frames after it.
    """
    height = tracks.centres[..., 1]
    num_frames = height.shape[1]
    length = free_frames(tracks, sizes)
    acceleration, speed = free_fit(height, length)
    frames: Counts = np.arange(num_frames, dtype=np.int64).reshape(1, -1, 1)
    with np.errstate(invalid="ignore"):
        on_floor: Bools = height > ROOM_PX - sizes[:, None] - CONTACT_PX
    first: Counts = np.where(tracks.seen & on_floor, frames, num_frames).min(axis=1)  # [N, B]
    window = (frames >= first[:, None]) & (frames <= first[:, None] + 2)
    lowest: Counts = np.where(window, np.nan_to_num(height, nan=-np.inf), -np.inf).argmax(axis=1)
    after = frames - lowest[:, None]
    used: Bools = (after >= 1) & (after <= MAX_REBOUND_FRAMES) & tracks.seen
    used &= (first < num_frames)[:, None]
    # From the frames after the lowest one: the landing itself falls between two frames.
    upward = -(height - 0.5 * acceleration[:, None] * after**2)
    away = _slope(after.astype(np.float64), upward, used)
    impact = speed + acceleration * lowest
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = away / impact
        fit = (
            (first <= length + 1) & (used.sum(axis=1) >= MIN_REBOUND_FRAMES) & (impact > MIN_IMPACT)
        )
    return np.where(fit, ratio, np.nan)


def _slope(x: Floats, y: Floats, used: Bools) -> Floats:
    """Return the least-squares slope along axis 1 of the used points; nan below two."""
    weight = used.astype(np.float64)
    count = np.maximum(weight.sum(axis=1), 1)
    x_mean = (weight * x).sum(axis=1) / count
    y = np.where(used, y, 0.0)
    y_mean = y.sum(axis=1) / count
    spread = (weight * (x - x_mean[:, None]) ** 2).sum(axis=1)
    shared = (weight * (x - x_mean[:, None]) * (y - y_mean[:, None])).sum(axis=1)
    return np.where(spread > 0, shared / np.where(spread > 0, spread, 1.0), np.nan)
