"""The one path that both sides' clips take before a discriminator sees them."""

from typing import Annotated, Literal

from pydantic import Field

from afd.config.values import Frozen

Quantiser = Annotated[int, Field(ge=0, le=51)]  # of H.264


class CanonicalParams(Frozen):
    """What nobody must be able to tell the sides apart by: rate, length, shape, size, codec.

    A rollout is first filmed: magnified and encoded as the teacher's videos are delivered. From
    there on both sides are finished videos and take the same steps (afd/data/canonical.py).
    """

    magnify: Annotated[int, Field(ge=1, le=16)]  # of a rollout, to the size of the teacher's clips
    crf: Quantiser  # as the teacher's clips are encoded
    qp: Quantiser  # of the last encoding of both sides, at the student's size
    chroma: Literal["420", "444"]  # of that encoding; small pictures need 444
    longer: Literal["refuse", "first", "middle"]  # a clip longer than the student's
    shorter: Literal["refuse", "hold", "loop"]  # and a shorter one
    aspect: Literal["refuse", "crop"]  # a clip of another shape
