"""Tracking of the balls of a clip from its pixels and the colours in its prompt.

A pixel is unmixed into the known colours by non-negative least squares above the clip's own ground
level. Three steps make it hold under another contrast, another ground and sensor grain:

1. the ground is the median of all pixels of the clip, per channel (balls cover at most a seventh);
2. frames are smoothed by [1 2 1] x [1 2 1] / 16 before the non-negative step, on a canvas two px
   wider on each side, so that grain averages out (to .375 of its amplitude) and mass is kept;
3. amplitudes below a floor, the larger of FLOOR_SIGMA robust standard deviations of the ground and
   FLOOR_SHARE of the clip's own peak, are counted as nothing.

Mass is the sum of the amplitudes that are left, in px of area times contrast: it is meaningful
against the same clip's own mass only. Only the named colours are unmixed: another colour counts by
its projection (a ball that turns from green to blue keeps .6 of its mass, from green to yellow
1.1). The centroid is taken around the strongest spot, so that a ghost elsewhere moves mass and not
place.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from afd.world.rendering import GROUND

FLOOR_SIGMA = 3.5  # 1 pixel in 2,000 of pure grain passes: .1 px of mass against 8-15 of a ball
FLOOR_SHARE = 0.2
WINDOW_PX = 3.5  # around the strongest spot: the largest radius 2.2, an edge, and the smoothing
LOST_SHARE = 0.15  # of the ball's own early mass: below, the ball is not seen
_MARGIN = 2  # px of the wider canvas
_CHUNK = 16  # clips worked on at a time: their arrays stay in cache, twice as fast as all at once

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tracks:
    """Track of each named ball in each frame; shapes [N, F, B] and [N, F, B, 2].

    centres  (x, y) in px; a lost ball has its last place (a ball that never has mass: its first
             strongest spot)
    masses   sum of amplitudes over the frame
    seen     the ball's mass was at least LOST_SHARE of its early mass
    named    [N, B] the prompt names such a ball; everything about others is nan or False
    """

    centres: Floats
    masses: Floats
    seen: Bools
    named: Bools


def track(clips: npt.NDArray[np.float32], rgb: Floats) -> Tracks:
    """Track balls in clips [N, F, 3, H, W] in [0, 1] by their colours rgb [N, B, 3], B 1 or 2.

    A clip with fewer balls than B has nan colours in the last place. Distances are in px of the
    clip. Raises ValueError for other shapes and for values that are not finite.
    """
    _check(clips, rgb)
    named: Bools = ~np.asarray(np.isnan(rgb).any(axis=-1))
    colours = np.where(named[..., None], rgb, 0.0)
    masses = np.empty((*clips.shape[:2], rgb.shape[1]))
    centres = np.empty((*masses.shape, 2))
    for start in range(0, len(clips), _CHUNK):
        rows = slice(start, start + _CHUNK)
        amplitudes = _amplitudes(clips[rows], colours[rows], named[rows])
        masses[rows] = amplitudes.sum(axis=(-2, -1))
        centres[rows] = _centres(amplitudes)
    early = early_mass(masses)
    seen: Bools = (masses > 0) & (masses >= LOST_SHARE * early[:, None]) & named[:, None]
    centres = _hold_last_seen(centres, seen)
    absent = ~named[:, None, :] & np.ones_like(seen)
    masses[absent] = np.nan
    centres[absent] = np.nan
    return Tracks(centres, masses, seen, named)


def early_mass(masses: Floats) -> Floats:
    """Return the median mass [N, B] over the first quarter of the frames, at least two.

    It is the reference of permanence: a dimmer look scales both.
    """
    return np.median(masses[:, : max(2, masses.shape[1] // 4)], axis=1)


def _check(clips: npt.NDArray[np.float32], rgb: Floats) -> None:
    if clips.ndim != 5 or clips.shape[2] != 3:
        raise ValueError(f"clips must be [N, F, 3, H, W], not {clips.shape}")
    if rgb.ndim != 3 or rgb.shape[0] != len(clips) or rgb.shape[2] != 3 or rgb.shape[1] > 2:
        raise ValueError(f"rgb must be [{len(clips)}, 1 or 2, 3], not {rgb.shape}")
    if not np.isfinite(clips).all():
        bad = np.flatnonzero(~np.isfinite(clips).all(axis=(1, 2, 3, 4)))
        raise ValueError(f"{len(bad)} clips hold values that are not finite, first {bad[:5]}")


def _amplitudes(clips: npt.NDArray[np.float32], rgb: Floats, named: Bools) -> Floats:
    """Return the amplitude >= 0 of each named colour at each pixel: [N, F, B, H + 4, W + 4]."""
    num_clips = len(clips)
    pixels = clips.swapaxes(1, 2).reshape(num_clips, 3, -1)
    ground = np.median(pixels, axis=2)
    above = clips - ground[:, None, :, None, None].astype(np.float64)
    # Columns of the mixing matrix: direction of each colour away from the clean ground.
    basis = (rgb - GROUND) * named[..., None]  # [N, B, 3]
    # Smoothing is linear: two projections are smoothed in the place of three channels.
    projected = np.matmul(basis[:, None], above.reshape(*above.shape[:3], -1))
    signed = _smooth(projected.reshape(*projected.shape[:3], *clips.shape[-2:]))
    gram = np.einsum("nbc,ndc->nbd", basis, basis)
    amplitudes = _non_negative(signed, gram, named)
    # Robust spread of the ground's own amplitude, before the non-negative step, per clip and ball.
    alone = signed / np.maximum(np.einsum("nbb->nb", gram), 1e-9)[:, None, :, None, None]
    inner = alone[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].swapaxes(1, 2)
    inner = inner.reshape(num_clips, rgb.shape[1], -1)
    deviation = np.abs(inner - np.median(inner, axis=-1, keepdims=True))
    sigma = 1.4826 * np.median(deviation, axis=-1)
    peak = amplitudes.max(axis=(1, 3, 4))
    floor = np.maximum(FLOOR_SIGMA * sigma, FLOOR_SHARE * peak)
    return np.where(amplitudes > floor[:, None, :, None, None], amplitudes, 0.0)


def _smooth(frames: Floats) -> Floats:
    """Filter [..., H, W] by [1 2 1] / 4 along both axes to [..., H + 4, W + 4], keeping the sum."""
    padded = np.pad(frames, [(0, 0)] * (frames.ndim - 2) + [(_MARGIN, _MARGIN)] * 2)
    down = 0.5 * padded
    down[..., 1:, :] += 0.25 * padded[..., :-1, :]
    down[..., :-1, :] += 0.25 * padded[..., 1:, :]
    both = 0.5 * down
    both[..., 1:] += 0.25 * down[..., :-1]
    both[..., :-1] += 0.25 * down[..., 1:]
    return both


def _non_negative(signed: Floats, gram: Floats, named: Bools) -> Floats:
    """Solve least squares with amplitudes >= 0 for one or two columns, in closed form.

    signed = basis^T pixel [N, F, B, H, W]; gram = basis^T basis [N, B, B].
    """
    norm = np.maximum(np.einsum("nbb->nb", gram), 1e-9)[:, None, :, None, None]
    alone = np.maximum(signed / norm, 0.0)
    if signed.shape[2] == 1:
        return alone
    a, b = signed[:, :, 0], signed[:, :, 1]
    off = gram[:, 0, 1][:, None, None, None]
    both_named: Bools = np.asarray(named.all(axis=1))[:, None, None, None]
    first, second = norm[:, :, 0], norm[:, :, 1]
    determinant = np.where(both_named, first * second - off**2, 1.0)
    both_a = (second * a - off * b) / determinant
    both_b = (first * b - off * a) / determinant
    inside: Bools = both_named & (both_a > 0) & (both_b > 0)
    # At the boundary the better single column wins: the larger drop of the residual, a^2 / |c|^2.
    first_wins = np.maximum(a, 0) ** 2 / first >= np.maximum(b, 0) ** 2 / second
    only_a = np.where(first_wins | ~both_named, alone[:, :, 0], 0.0)
    only_b = np.where(~first_wins & both_named, alone[:, :, 1], 0.0)
    return np.stack([np.where(inside, both_a, only_a), np.where(inside, both_b, only_b)], axis=2)


def _centres(amplitudes: Floats) -> Floats:
    """Return the centroid (x, y) around the strongest 5x5 spot: [N, F, B, 2], px of the clip."""
    height, width = amplitudes.shape[-2:]
    spots = _box_sums(_box_sums(amplitudes).swapaxes(-2, -1)).swapaxes(-2, -1)
    flat = spots.reshape(*spots.shape[:-2], -1).argmax(axis=-1)
    peak_y: Floats = np.asarray(flat // width, dtype=np.float64)
    peak_x: Floats = np.asarray(flat % width, dtype=np.float64)
    y, x = np.arange(height, dtype=np.float64)[:, None], np.arange(width, dtype=np.float64)
    for _ in range(2):  # the second pass centres the window on the first centroid
        near: Floats = (y - peak_y[..., None, None]) ** 2 + (x - peak_x[..., None, None]) ** 2
        weight = np.where(near <= WINDOW_PX**2, amplitudes, 0.0)
        rows, columns = weight.sum(axis=-1), weight.sum(axis=-2)
        total = rows.sum(axis=-1)
        found = total > 0
        total = np.where(found, total, 1.0)
        peak_x = np.where(found, (columns * x).sum(axis=-1) / total, peak_x)
        peak_y = np.where(found, (rows * y[:, 0]).sum(axis=-1) / total, peak_y)
    return np.stack([peak_x, peak_y], axis=-1) - _MARGIN + 0.5


def _box_sums(values: Floats) -> Floats:
    """Return sums over windows of 5 along the last axis, cut at its ends; same shape."""
    sums = values.copy()
    for shift in (1, 2):
        sums[..., shift:] += values[..., :-shift]
        sums[..., :-shift] += values[..., shift:]
    return sums


def _hold_last_seen(centres: Floats, seen: Bools) -> Floats:
    """Replace the place of a lost ball by its last place before, else by its first after."""
    frames = np.arange(seen.shape[1], dtype=np.int64).reshape(1, -1, 1)
    last = np.maximum.accumulate(np.where(seen, frames, -1), axis=1)
    first = np.argmax(seen, axis=1)[:, None]  # 0 when never seen
    source = np.where(last >= 0, last, first)
    return np.take_along_axis(centres, source[..., None], axis=1)
