"""Laws and looks of the pocket world from params."""

from afd.config import LawsParams, LookParams
from afd.world.rendering import Look
from afd.world.scenes import Laws


def laws(params: LawsParams) -> Laws:
    return Laws(
        gravity=(params.gravity.low, params.gravity.high),
        restitution=(params.restitution.low, params.restitution.high),
        collide=params.collide,
        velocity_jitter=params.velocity_jitter,
    )


def look(params: LookParams) -> Look:
    return Look(
        contrast=(params.contrast.low, params.contrast.high),
        background=(params.background.low, params.background.high),
        grain=params.grain,
    )
