"""Params of the pocket world's physics and rendering, for the teacher and for the warm start."""

from afd.config.values import NonNegative, NonNegativeRange, Range, Section, Share, ShareRange


class LawsParams(Section):
    """Physics of the bodies. Units: px of the 16x16 grid and frames."""

    gravity: Range
    """Downward acceleration in px / frame^2 of the 16x16 grid, drawn once a clip."""
    restitution: ShareRange
    """Share of speed that a bounce keeps, 0 to 1, drawn once a clip."""
    velocity_jitter: NonNegative
    """Standard deviation of the noise on velocities in px / frame, 0 or more."""
    collide: Share
    """Share of clips in which two bodies collide instead of passing through, 0 to 1."""


class LookParams(Section):
    """Rendering of the bodies."""

    contrast: NonNegativeRange
    """Factor on the bodies' colour, 0 or more."""
    background: ShareRange
    """Grey level of the background, 0 (black) to 1 (white)."""
    grain: NonNegative
    """Standard deviation of the sensor's grain, after canonicalisation, 0 or more."""
