"""Params of a round's stages: rollout, fit, critic, update, evaluate."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from afd.config.evaluators import OutsideEvaluator
from afd.config.students import MemoryParams
from afd.config.values import (
    Count,
    Listed,
    NonNegative,
    NonNegativeRange,
    Positive,
    Section,
    Share,
    ShareBelowOne,
)


class RolloutParams(Section):
    num_prompts: Count
    """Prompts of a round, 1 or more."""
    group_size: Annotated[int, Field(ge=2)]
    """Rollouts of a prompt, 2 or more."""
    refresh: Literal["every_round", "never"]
    """Rounds in which the student rolls out anew; never: off-policy ablation."""
    behaviour: Literal["student", "average"]
    """Weights that roll out, and so are v_old: the student's, or their average, which moves by
    update.ema_decay a step (DiffusionNFT's decayed old policy)."""
    batch_size: Count
    """Rollouts computed at once, 1 or more."""


class FitParams(Section):
    """Bradley-Terry on same-prompt pairs, with R1 and a replay of the last rounds."""

    loss: Literal["bradley_terry", "binary_cross_entropy"]
    """Loss on pairs of the same prompt; binary_cross_entropy: an ablation."""
    warmup_steps: Annotated[int, Field(ge=0)]
    """Extra steps in the first round, 0 or more."""
    num_steps: Annotated[int, Field(ge=0)]
    """Steps of a round, 0 or more."""
    batch_size: Count
    """Pairs of a step, 1 or more."""
    learning_rate: NonNegative
    """Learning rate of AdamW, 0 or more."""
    betas: Listed[tuple[ShareBelowOne, ShareBelowOne]]
    """AdamW's two decay rates, 0 to below 1."""
    weight_decay: NonNegative
    """AdamW's weight decay, 0 or more."""
    r1: NonNegative
    """Weight of the R1 gradient penalty, 0 or more."""
    mismatch: NonNegative
    """Weight of teacher clips under a wrong prompt, 0 or more; 0 is the paper's loss."""
    replay_rounds: Annotated[int, Field(ge=0)]
    """Earlier rounds whose clips are replayed, 0 or more."""
    replay_share: Share
    """Share of a batch that is replayed, 0 to 1."""
    max_skipped_steps: Annotated[int, Field(ge=0)] = 0
    """Non-finite steps before the stage stops, 0 or more. Circumstance: changes no result."""


Objective = Literal[
    "forward_process",  # AFD: contrastive flow matching on the student's own noised rollouts
    "reverse_chain",  # a rival's credit: policy gradient along the sampling chain
    "generator",  # a rival's credit: the discriminator's gradient through the last step
    "supervised",  # no rollouts, no discriminator: flow matching on teacher clips
    "distribution_matching",  # no discriminator: velocities of a white-box teacher and of a critic
]


class CriticParams(Section):
    """The critic of distribution matching: a network fitted to the student's own rollouts."""

    warmup_steps: Annotated[int, Field(ge=0)]
    """Extra steps in the first round, 0 or more."""
    num_steps: Count
    """Steps of a round, 1 or more."""
    batch_size: Count
    """Rollouts of a step, 1 or more."""
    learning_rate: Positive
    """Learning rate of AdamW, above 0."""


class UpdateParams(Section):
    """Training of the student on its rollouts' scores; `objective` is the arm."""

    objective: Objective
    """The arm: AFD is forward_process, the others are rivals."""
    context: Literal["clean", "noisy"]
    """Context frames of a training pass; noisy: an ablation."""
    ratio_clip: ShareBelowOne
    """Clip of the probability ratio, 0 to below 1; used by reverse_chain alone."""
    advantage_scope: Literal["group", "batch"]
    """Rollouts over which scores are standardised: those of a prompt, or all."""
    advantage_clip: Positive
    """Largest absolute advantage, above 0."""
    shuffle_advantages: bool
    """Control: advantages are permuted and must not improve the student."""
    num_best: Count
    """Best rollouts of a group that are trained on, 1 or more."""
    num_worst: Count
    """Worst rollouts of a group that are trained on, 1 or more."""
    scaling: Literal["adaptive_clean", "velocity"]
    """Scale of the flow-matching loss."""
    beta: Positive
    """Strength of the contrast between the new and the old velocity, above 0."""
    prior: NonNegative
    """Weight of the pull to the reference student (lambda_prior), 0 or more, on latents of unit
    variance."""
    times: Literal["steps", "uniform", "shifted_uniform"]
    """Distribution of the noise level t: the sampler's steps, uniform, or uniform and shifted."""
    num_steps: Count
    """Steps of a round, 1 or more."""
    batch_size: Count
    """Rollouts of a step, 1 or more."""
    learning_rate: NonNegativeRange
    """Learning rate, 0 or more: high at the first round, low at the last, cosine between."""
    betas: Listed[tuple[ShareBelowOne, ShareBelowOne]]
    """AdamW's two decay rates, 0 to below 1."""
    weight_decay: NonNegative
    """AdamW's weight decay, 0 or more."""
    gradient_clip: Positive
    """Largest norm of the gradient, above 0."""
    ema_decay: Share
    """Decay of the average of the weights, a step, 0 to 1."""
    max_skipped_steps: Annotated[int, Field(ge=0)]
    """Non-finite losses before the stage stops, 0 or more."""
    memory: MemoryParams = MemoryParams()
    """Use of memory. Circumstance: the result is the same up to the order of sums."""
    critic: CriticParams | None = Field(default=None, exclude_if=lambda value: value is None)
    """The other network of objective distribution_matching; null for every other.

    Left out of dumps when null.
    """


class EvaluateParams(Section):
    """Held-out measurement: the same prompts, scenes and noise seeds for every student."""

    split: Literal["held_out", "tuning"]
    """Prompts that are measured on; tuning: to choose settings, not to make claims."""
    num_prompts: Annotated[int, Field(ge=2)]
    """Prompts of the final evaluation, 2 or more."""
    noise_seeds: Listed[tuple[int, ...]]
    """Noise seeds of the final evaluation; distinct, at least one."""
    round_num_prompts: Annotated[int, Field(ge=2)]
    """Prompts of the cheaper evaluation after each round, 2 or more."""
    round_noise_seeds: Listed[tuple[int, ...]]
    """Noise seeds of that evaluation; distinct, at least one."""
    num_resamples: Annotated[int, Field(ge=999)]
    """Bootstrap resamples, 999 or more."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    """Confidence of the intervals, above 0 and below 1."""
    frechet_margin: Positive
    """Largest change of the look's Fréchet distance that passes, above 0; fixed before the run."""
    num_filmstrips: Count
    """Prompts of the report's filmstrips, 1 or more."""
    evaluators: Listed[tuple[OutsideEvaluator, ...]] = ()
    """Programs of their own environment that measure as well."""
    guidance: Annotated[float, Field(gt=1, le=30)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Scale of classifier-free guidance of student and base, above 1 and at most 30; null: none.

    Left out of dumps when null, so that campaigns without it stay what they are.
    """

    horizon: Annotated[int, Field(ge=2, le=16)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """After the last round, base and student once more on clips so many times as long as trained,
    2 to 16: metrics a block (afd/evaluation/drift.py); null: not.

    Left out of dumps when null.
    """

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
