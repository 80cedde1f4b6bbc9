"""What a round does: rollout, fit, update, evaluate."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from afd.config.evaluators import OutsideEvaluator
from afd.config.students import MemoryParams
from afd.config.values import (
    Count,
    Frozen,
    Listed,
    NonNegative,
    NonNegativeRange,
    Positive,
    Share,
    ShareBelowOne,
)


class RolloutParams(Frozen):
    num_prompts: Count  # a round
    group_size: Annotated[int, Field(ge=2)]  # rollouts a prompt
    refresh: Literal["every_round", "never"]  # never: off-policy ablation
    # Whose weights roll out, and so are v_old: the student's, or their average, which moves by
    # update.ema_decay a step (DiffusionNFT's decayed old policy).
    behaviour: Literal["student", "average"]
    batch_size: Count


class FitParams(Frozen):
    """Bradley-Terry on same-prompt pairs, with R1 and a replay of the last rounds."""

    loss: Literal["bradley_terry", "binary_cross_entropy"]
    warmup_steps: Annotated[int, Field(ge=0)]  # extra steps in the first round
    num_steps: Annotated[int, Field(ge=0)]
    batch_size: Count
    learning_rate: NonNegative
    betas: Listed[tuple[ShareBelowOne, ShareBelowOne]]
    weight_decay: NonNegative
    r1: NonNegative
    mismatch: NonNegative  # weight of teacher clips under a wrong prompt; 0 is the paper's loss
    replay_rounds: Annotated[int, Field(ge=0)]
    replay_share: Share
    # Non-finite steps before the stage stops: circumstance, a fit that skips none is what it is.
    max_skipped_steps: Annotated[int, Field(ge=0)] = 0


Objective = Literal[
    "forward_process",  # AFD: contrastive flow matching on the student's own noised rollouts
    "reverse_chain",  # a rival's credit: policy gradient along the sampling chain
    "generator",  # a rival's credit: the discriminator's gradient through the last step
    "supervised",  # no rollouts, no discriminator: flow matching on teacher clips
    "distribution_matching",  # no discriminator: velocities of a white-box teacher and of a critic
]


class CriticParams(Frozen):
    """Distribution matching's other network: kept fitted to the student's own rollouts."""

    warmup_steps: Annotated[int, Field(ge=0)]  # extra steps in the first round
    num_steps: Count
    batch_size: Count
    learning_rate: Positive


class UpdateParams(Frozen):
    """How the student learns from its rollouts' scores; `objective` is the arm."""

    objective: Objective
    context: Literal["clean", "noisy"]  # noisy: an ablation; a public relative trains with it
    ratio_clip: ShareBelowOne  # of reverse_chain
    advantage_scope: Literal["group", "batch"]
    advantage_clip: Positive
    shuffle_advantages: bool  # control: must not improve
    num_best: Count  # of a group
    num_worst: Count
    scaling: Literal["adaptive_clean", "velocity"]
    beta: Positive
    prior: NonNegative  # lambda_prior, on latents of unit variance
    times: Literal["steps", "uniform", "shifted_uniform"]
    num_steps: Count
    batch_size: Count
    learning_rate: NonNegativeRange  # high at the first round, low at the last, cosine between
    betas: Listed[tuple[ShareBelowOne, ShareBelowOne]]
    weight_decay: NonNegative
    gradient_clip: Positive
    ema_decay: Share
    max_skipped_steps: Annotated[int, Field(ge=0)]  # non-finite losses before the stage stops
    memory: MemoryParams = MemoryParams()
    # Only for distribution_matching. Left out of dumps when null.
    critic: CriticParams | None = Field(default=None, exclude_if=lambda value: value is None)


class EvaluateParams(Frozen):
    """Held-out measurement: the same prompts, scenes and noise seeds for every student."""

    split: Literal["held_out", "tuning"]  # tuning: to choose settings, not to make claims
    num_prompts: Annotated[int, Field(ge=2)]
    noise_seeds: Listed[tuple[int, ...]]
    round_num_prompts: Annotated[int, Field(ge=2)]  # the cheaper look after each round
    round_noise_seeds: Listed[tuple[int, ...]]
    num_resamples: Annotated[int, Field(ge=999)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    frechet_margin: Positive  # how far the look may move; fixed before the run
    num_filmstrips: Count
    evaluators: Listed[tuple[OutsideEvaluator, ...]] = ()  # programs of their own environment
    # Classifier-free guidance of student and base when they are judged (afd/flow/guidance.py).
    # Left out of dumps when null, so that campaigns without it stay what they are.
    guidance: Annotated[float, Field(gt=1, le=30)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )

    # After the last round, base and student once more on clips so many times as long as trained:
    # metrics a block (afd/evaluation/drift.py). Left out of dumps when null.
    horizon: Annotated[int, Field(ge=2, le=16)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )

    @field_validator("evaluators")
    @classmethod
    def _named_once(cls, evaluators: tuple[OutsideEvaluator, ...]) -> tuple[OutsideEvaluator, ...]:
        names = [evaluator.name for evaluator in evaluators]
        if len(set(names)) != len(names):
            raise ValueError(f"must have distinct names, got {names}")
        return evaluators

    @field_validator("noise_seeds", "round_noise_seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError(f"must be distinct and not empty, got {list(seeds)}")
        return seeds
