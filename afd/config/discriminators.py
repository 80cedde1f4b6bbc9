"""Who tells the two apart."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from afd.config.values import Count, Frozen, Listed, NonNegative, NonNegativeRange, Positive, Range


class ConvDiscriminator(Frozen):
    """A small prompt-conditioned convolutional scorer for the pocket world."""

    kind: Literal["conv"]
    width: Count
    noise: NonNegative  # standard deviation added to both sides
    contrast: NonNegativeRange  # random factor on both sides
    brightness: Range  # random offset on both sides
    normalise: bool  # per-clip standardisation of both sides
    num_passes: Count  # noisy passes averaged into one score


class LargeBackbone(Frozen):
    """What discriminators on a large pretrained network share."""

    backbone: Annotated[str, Field(min_length=1)]  # a folder on this disk; its content is identity
    dtype: Literal["float32", "bfloat16"]  # of the frozen weights; what trains is float32
    penalty_step: Positive | None  # of finite-difference R1 (null: exact, by double backward)
    micro_batch: Count  # pairs in memory at once; fit.batch_size stays what is averaged over
    gradient_checkpointing: bool


class VlmDiscriminator(LargeBackbone):
    """Qwen2-VL with LoRA and a score head, in pixel space: the paper's choice."""

    kind: Literal["vlm"]
    reward: str | None  # VideoReward's checkpoint to start from (folder or file); null: Qwen2-VL
    # What it is asked: {prompt} is the caption; scores are read at the reward tokens.
    question: Annotated[str, Field(min_length=1, max_length=20_000)]
    reward_tokens: Listed[tuple[Annotated[str, Field(pattern=r"^<\|\w+\|>$")], ...]]
    num_text_tokens: Count  # room for question and caption; a longer caption is refused
    num_frames: Annotated[int, Field(ge=2, multiple_of=2)]  # evenly over the clip; read in twos
    frame_pixels: Count  # most of a frame; sides are rounded to whole patches
    lora_rank: Count
    lora_alpha: Positive

    @model_validator(mode="after")
    def _asks(self) -> "VlmDiscriminator":
        tokens = self.reward_tokens
        if not tokens or len(set(tokens)) != len(tokens):
            raise ValueError(f"reward_tokens must be distinct and not empty: {list(tokens)}")
        wanted = ("{prompt}", *tokens)
        wrong = [part for part in wanted if self.question.count(part) != 1]
        if wrong:
            raise ValueError(f"question must hold exactly once: {', '.join(wrong)}")
        return self


class DitFeaturesDiscriminator(LargeBackbone):
    """Small heads on chosen blocks of a frozen Wan; latents of both sides come from pixels."""

    kind: Literal["dit_features"]
    layers: Listed[tuple[Annotated[int, Field(ge=0)], ...]]  # blocks of the transformer, from 0
    times: Listed[tuple[Annotated[float, Field(ge=0, lt=1)], ...]]  # t at which features are read
    head_width: Count

    @field_validator("layers", "times")
    @classmethod
    def _rising(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or sorted(set(values)) != list(values):
            raise ValueError(f"must be distinct, rising and not empty, got {list(values)}")
        return values


Discriminator = Annotated[
    ConvDiscriminator | VlmDiscriminator | DitFeaturesDiscriminator, Field(discriminator="kind")
]
