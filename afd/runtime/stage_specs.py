"""Table of the stages: the artifact of each, how it may be computed, and what people read first.

A row more is a name in afd/runtime/revisions.py, a row here, a case in afd/stages/execute.py and a
request in afd/stages/requests.py; the type checker names what is missing. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from afd.artifacts import ArtifactKind
from afd.config.cluster import SHARED
from afd.runtime.revisions import REVISION, StageName


@dataclass(frozen=True)
class StageSpec:
    """One stage."""

    name: StageName
    makes: ArtifactKind
    key_params: tuple[str, ...]  # dotted, of its request; `afd show` prints them
    key_numbers: tuple[str, ...] = ()  # of its summary, for its log line; none: the first few
    uses_device: bool = True
    is_series: bool = False  # its numbers are a value of each round, a curve in MLflow

    @property
    def revision(self) -> int:
        """Number of its code, part of every artifact's identity."""
        return REVISION[self.name]

    @property
    def is_shared(self) -> bool:
        """True where several ranks compute it together (torch.distributed)."""
        return self.name in SHARED


def stage_spec(stage: StageName) -> StageSpec:  # noqa: PLR0911  a row a stage
    """Return the row of a stage."""
    match stage:
        case "prompts":
            first = ("prompts.kind", "prompts.num_held_out")
            return StageSpec(stage, "prompt_set", first, uses_device=False)
        case "harvest":
            first = ("teacher.kind", "split", "round_index", "num_prompts")
            return StageSpec(stage, "teacher_clips", first, uses_device=False)
        case "warmstart":
            first = ("student.family", "warmstart.num_clips", "warmstart.num_steps", "seed")
            return StageSpec(
                stage, "student_weights", first, ("loss", "num_steps", "num_parameters")
            )
        case "rollout":
            first = ("rollout.num_prompts", "rollout.group_size", "round_index", "seed")
            return StageSpec(
                stage, "rollouts", first, ("num_rollouts", "num_prompts", "group_size")
            )
        case "fit":
            return StageSpec(
                stage,
                "discriminator_weights",
                ("discriminator.kind", "fit.loss", "fit.num_steps", "fit.r1", "round_index"),
                ("pair_accuracy", "margin", "group_spread", "anchor_pair_accuracy"),
                is_series=True,
            )
        case "critic":
            first = ("critic.num_steps", "critic.learning_rate", "round_index")
            return StageSpec(stage, "student_weights", first)
        case "update":
            return StageSpec(
                stage,
                "student_weights",
                ("update.advantage_scope", "update.beta", "update.prior", "round_index"),
                ("loss", "mean_score", "distance_to_reference", "gradient_norm", "num_skipped"),
                is_series=True,
            )
        case "evaluate":
            return StageSpec(stage, "evaluation", ("num_prompts", "noise_seeds"), is_series=True)
        case "report":
            return StageSpec(stage, "report", ("num_rounds", "seed"), uses_device=False)


STAGES: Mapping[str, StageSpec] = {name: stage_spec(name) for name in get_args(StageName)}
