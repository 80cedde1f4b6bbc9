"""Canonical video format: the one path of both sides' clips to the discriminator."""

from typing import Annotated, Literal

from pydantic import Field

from afd.config.values import Section

Quantiser = Annotated[int, Field(ge=0, le=51)]  # of H.264


class CanonicalParams(Section):
    """The one format of both sides, so that no rate, length, shape, size or codec separates them.

    A rollout is first magnified and encoded as the teacher delivers its videos. From there on both
    sides are finished videos and take the same steps (afd/video/canonical.py).
    """

    magnify: Annotated[int, Field(ge=1, le=16)]
    """Factor from a rollout's frame to the size of the teacher's clips, 1 to 16."""
    crf: Quantiser
    """H.264 rate factor of a rollout's first encoding, as the teacher's clips are encoded, 0 to
    51."""
    qp: Quantiser
    """H.264 quantiser of the last encoding of both sides, at the student's size, 0 to 51."""
    chroma: Literal["420", "444"]
    """Chroma sampling of that encoding; small pictures need 444."""
    longer: Literal["refuse", "first", "middle"]
    """Treatment of a clip longer than the student's: refused, its first or its middle frames."""
    shorter: Literal["refuse", "hold", "loop"]
    """Treatment of a shorter clip: refused, its last frame held, or repeated."""
    aspect: Literal["refuse", "crop"]
    """Treatment of a clip of another shape: refused, or its middle cut out."""
