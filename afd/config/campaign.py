"""Params of a whole campaign."""

from functools import reduce
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from afd.config.alarms import AlarmsParams
from afd.config.canonical import CanonicalParams
from afd.config.discriminators import Discriminator
from afd.config.prompts import Prompts
from afd.config.rounds import EvaluateParams, FitParams, RolloutParams, UpdateParams
from afd.config.rules import broken_rules
from afd.config.students import Student, WarmstartParams
from afd.config.teachers import Teacher
from afd.config.values import Count, FrameSize, Section


class Params(Section):
    """Params of one campaign: everything that changes its result, and nothing else."""

    schema_version: Literal[1]
    """Version of this schema."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Seed of every draw of the campaign, 0 to 2^31 - 1."""
    num_rounds: Count
    """Rounds of the campaign, 1 or more."""
    num_frames: Count
    """Pixel frames of a clip, 1 or more."""
    frame_size: FrameSize
    """Frame of the student's clips: the side of a square in px, 8 to 4096, or [rows, columns]."""
    fps: Count
    """Frames a second of a clip, 1 or more."""
    canonical: CanonicalParams
    """Path of both sides' clips to the discriminator."""
    prompts: Prompts
    """Sentences of the campaign."""
    teacher: Teacher
    """Source of finished videos."""
    student: Student
    """Network that learns."""
    warmstart: WarmstartParams | None = None
    """Training of a fresh student before any round; null for a published one."""
    discriminator: Discriminator
    """Network that separates teacher clips from rollouts."""
    rollout: RolloutParams
    """Videos that the student makes in a round."""
    fit: FitParams
    """Training of the discriminator in a round."""
    update: UpdateParams
    """Training of the student in a round."""
    evaluate: EvaluateParams
    """Measurement on held-out prompts."""
    alarms: AlarmsParams = Field(
        default=AlarmsParams(), exclude_if=lambda value: value == AlarmsParams()
    )
    """Limits of a healthy campaign, and the action beyond them; default: warnings alone.

    Left out of dumps where nothing is set, so that campaigns without it stay what they are.
    """

    @property
    def teacher_fps(self) -> float | None:
        """Frames a second of the teacher's clips, None where only the clips say it."""
        rate = getattr(self.teacher, "fps", None)
        return self.fps if self.teacher.kind == "simulator" else rate

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        problems = broken_rules(self._read)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _read(self, field: str) -> Any:
        """Return a dotted field; raises LookupError where this kind of section has none."""
        try:
            return reduce(getattr, field.split("."), self)
        except AttributeError:
            raise LookupError(field) from None
