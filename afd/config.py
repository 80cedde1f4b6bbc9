"""The schema of params: what a campaign is (`Params`) and where it runs (`Cluster`).

`Params` holds the literal values that change a result; every one of them enters a fingerprint.
`Cluster` holds circumstance (executor, threads, services); none of it does.
"""

from functools import reduce
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from afd.consistency import broken_rules

Count = Annotated[int, Field(ge=1, le=10_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Items = TypeVar("Items")
# YAML and JSON write a tuple as a list; what is inside stays strict.
Listed = Annotated[Items, Field(strict=False)]


class Frozen(BaseModel):
    """Immutable, no unknown keys, no NaN, no silent conversion between kinds of value.

    An int is a float; "12" is no 12, true is no 1, and 2.0 is no int.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, strict=True
    )


class Range(Frozen):
    """A closed interval to draw from uniformly."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"low {self.low} must not exceed high {self.high}")
        return self


class NonNegativeRange(Range):
    """A range without negative values."""

    low: NonNegative
    high: NonNegative


class ShareRange(Range):
    """A range within [0, 1]."""

    low: Share
    high: Share


# ------------------------------------------------------------------ prompts and the pocket world


class GrammarPrompts(Frozen):
    """Every sentence of the pocket world's grammar, split by hash."""

    kind: Literal["grammar"]
    num_held_out: Count


class FilePrompts(Frozen):
    """Sentences of a JSONL file: one object a line with `text` and, if you like, `split`."""

    kind: Literal["file"]
    path: str
    num_held_out: Count


Prompts = Annotated[GrammarPrompts | FilePrompts, Field(discriminator="kind")]


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


class SimulatorTeacher(Frozen):
    """The embedded teacher: a rigid-body simulator that answers with a finished mp4."""

    kind: Literal["simulator"]
    laws: LawsParams
    look: LookParams
    size: Annotated[int, Field(ge=16, le=512, multiple_of=16)]  # px of the mp4, a side
    clips_per_prompt: Count  # paid once each; rounds reuse them
    training_permitted: Literal["yes", "no", "unknown"]  # by the teacher's terms


# ------------------------------------------------------------------ the student


class PatchCodec(Frozen):
    """Fixed space-to-depth patches, then a PCA fitted on the warm-start corpus (null: none)."""

    kind: Literal["patch"]
    frames: Count
    components: Count | None
    whitening: Share


class CausalWanParams(Frozen):
    """diffusers' Wan transformer, block-causal. Defaults do not exist: a student is its values."""

    family: Literal["causal_wan"]
    num_layers: Count
    num_heads: Count
    head_dim: Annotated[int, Field(ge=6, multiple_of=2)]
    ffn_dim: Count
    freq_dim: Annotated[int, Field(ge=2, multiple_of=2)]
    text_dim: Count
    num_text_tokens: Count
    prediction: Literal["velocity", "clean"]  # what the head's output means
    init_gate: float  # added to the gate rows of the modulation at initialisation
    latent_frames_per_block: Count
    num_steps: Annotated[int, Field(ge=1, le=1000)]
    shift: Positive
    codec: PatchCodec


class WarmstartParams(Frozen):
    """Flow matching on a corpus with the right look and the wrong physics."""

    laws: LawsParams
    look: LookParams
    num_clips: Count
    num_steps: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative
    warmup_steps: Annotated[int, Field(ge=0)]
    ema_decay: Share
    times: Literal["steps", "uniform", "shifted_uniform"]


# ------------------------------------------------------------------ the players and the loop


class ConvDiscriminator(Frozen):
    """A small prompt-conditioned convolutional scorer for the pocket world."""

    kind: Literal["conv"]
    width: Count
    noise: NonNegative  # standard deviation added to both sides
    contrast: NonNegativeRange  # random factor on both sides
    brightness: Range  # random offset on both sides
    normalise: bool  # per-clip standardisation of both sides
    num_passes: Count  # noisy passes averaged into one score


class RolloutParams(Frozen):
    num_prompts: Count  # a round
    group_size: Annotated[int, Field(ge=2)]  # rollouts a prompt
    refresh: Literal["every_round", "never"]  # never: off-policy ablation
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


class UpdateParams(Frozen):
    """The flow-matching update on the student's own noised rollouts."""

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


class EvaluateParams(Frozen):
    """Held-out measurement: the same prompts, scenes and noise seeds for every student."""

    num_prompts: Annotated[int, Field(ge=2)]
    noise_seeds: Listed[tuple[int, ...]]
    round_num_prompts: Annotated[int, Field(ge=2)]  # the cheaper look after each round
    round_noise_seeds: Listed[tuple[int, ...]]
    num_resamples: Annotated[int, Field(ge=999)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    frechet_margin: Positive  # how far the look may move; fixed before the run
    num_filmstrips: Count

    @field_validator("noise_seeds", "round_noise_seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError(f"must be distinct and not empty, got {list(seeds)}")
        return seeds


class Params(Frozen):
    """One campaign: everything that changes its result, and nothing else."""

    schema_version: Literal[1]
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    num_rounds: Count
    num_frames: Count  # pixel frames of a clip
    frame_size: Annotated[int, Field(ge=8, le=1024)]  # px, a side, as the student sees it
    fps: Count
    prompts: Prompts
    teacher: SimulatorTeacher
    student: CausalWanParams
    warmstart: WarmstartParams
    discriminator: ConvDiscriminator
    rollout: RolloutParams
    fit: FitParams
    update: UpdateParams
    evaluate: EvaluateParams

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        problems = broken_rules(lambda field: reduce(getattr, field.split("."), self))
        if problems:
            raise ValueError("; ".join(problems))
        return self


# ------------------------------------------------------------------ circumstance


class Cluster(Frozen):
    """Where stages run. Nothing here enters a fingerprint."""

    executor: Literal["local", "in_process"]
    allocation: Literal["stage", "round", "campaign"]  # how long one worker lives
    # Circumstance, as the device is: sums in another order differ in the last bits, so manifests
    # record it. A second thread gives 0.7-1.25x on a busy two-core machine for 3-7x the CPU time.
    num_threads: Annotated[int, Field(ge=1, le=256)]
    num_children: Annotated[int, Field(ge=1, le=64)]  # stages computed side by side
    timeout_min: Annotated[int, Field(ge=1)]
