"""One campaign, whole."""

from functools import reduce
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from afd.config.alarms import AlarmsParams
from afd.config.canonical import CanonicalParams
from afd.config.discriminators import Discriminator
from afd.config.prompts import Prompts
from afd.config.rounds import EvaluateParams, FitParams, RolloutParams, UpdateParams
from afd.config.students import Student, WarmstartParams
from afd.config.teachers import Teacher
from afd.config.values import Count, FrameSize, Frozen
from afd.consistency import broken_rules


class Params(Frozen):
    """One campaign: everything that changes its result, and nothing else."""

    schema_version: Literal[1]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    num_rounds: Count
    num_frames: Count  # pixel frames of a clip
    frame_size: FrameSize  # px, as the student sees it
    fps: Count
    canonical: CanonicalParams
    prompts: Prompts
    teacher: Teacher
    student: Student
    warmstart: WarmstartParams | None = None  # of a fresh student; a published one has none
    discriminator: Discriminator
    rollout: RolloutParams
    fit: FitParams
    update: UpdateParams
    evaluate: EvaluateParams
    # Left out of dumps where nothing is set, so that campaigns without it stay what they are.
    alarms: AlarmsParams = Field(
        default=AlarmsParams(), exclude_if=lambda value: value == AlarmsParams()
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        problems = broken_rules(self._read)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _read(self, field: str) -> Any:
        """A dotted field; raises LookupError where this kind of section has none."""
        try:
            return reduce(getattr, field.split("."), self)
        except AttributeError:
            raise LookupError(field) from None
