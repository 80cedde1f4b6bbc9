"""How bodies of the pocket world move and look: the teacher's world and the warm start's."""

from afd.config.values import Frozen, NonNegative, NonNegativeRange, Range, Share, ShareRange


class LawsParams(Frozen):
    """How bodies move. Units: px of the 16x16 grid and frames."""

    gravity: Range  # px / frame^2, drawn once a clip
    restitution: ShareRange  # drawn once a clip
    velocity_jitter: NonNegative  # px / frame, standard deviation
    collide: Share  # share of clips in which two bodies collide instead of passing through


class LookParams(Frozen):
    """How bodies are drawn."""

    contrast: NonNegativeRange  # factor on the bodies' colour
    background: ShareRange  # grey level
    grain: NonNegative  # standard deviation of sensor grain, after canonicalisation
