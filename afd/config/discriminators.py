"""Params of each kind of discriminator."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from afd.config.plugins import Plugin
from afd.config.values import Count, Listed, NonNegative, NonNegativeRange, Positive, Range, Section


class ConvDiscriminator(Section):
    """A small prompt-conditioned convolutional scorer for the pocket world."""

    kind: Literal["conv"]
    """A small convolutional network for the pocket world."""
    width: Count
    """Channels of its widest layer, 1 or more."""
    noise: NonNegative
    """Standard deviation of the noise added to both sides (pixels are -1 to 1), 0 or more."""
    contrast: NonNegativeRange
    """Random factor on both sides' contrast, 0 or more."""
    brightness: Range
    """Random offset on both sides' pixels."""
    normalise: bool
    """Standardise each clip of both sides."""
    num_passes: Count
    """Noisy passes that are averaged into one score, 1 or more."""


class LargeBackbone(Section):
    """Fields that all discriminators on a large pretrained network share."""

    backbone: Annotated[str, Field(min_length=1)]
    """Folder of the pretrained network on this disk; its content is identity, its path is not."""
    dtype: Literal["float32", "bfloat16"]
    """Precision of the frozen weights; what trains is float32."""
    penalty_step: Positive | None
    """Step of the finite-difference R1 penalty, above 0; null: exact, by double backward."""
    micro_batch: Count
    """Pairs in memory at once, 1 or more; fit.batch_size stays what is averaged over."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, more time."""


class VlmDiscriminator(LargeBackbone):
    """Qwen2-VL with LoRA and a score head, in pixel space: the paper's choice."""

    kind: Literal["vlm"]
    """Qwen2-VL with LoRA and a score head."""
    reward: str | None
    """Checkpoint to start from (folder or file): VideoReward's, or LoRA and head in one file as
    AFD's discriminator.pt; null: Qwen2-VL alone."""
    reward_alpha: Positive | None = Field(default=None, exclude_if=lambda value: value is None)
    """alpha of a LoRA in `reward` whose files do not tell it; null: they do."""
    question: Annotated[str, Field(min_length=1, max_length=20_000)]
    """Question to the network; {prompt} is the caption, scores are read at the reward tokens."""
    reward_tokens: Listed[tuple[Annotated[str, Field(pattern=r"^<\|\w+\|>$")], ...]]
    """Tokens of the question at which scores are read, e.g. <|VQ_reward|>; distinct."""
    num_text_tokens: Count
    """Tokens for question and caption, 1 or more; a longer caption is refused."""
    num_frames: Annotated[int, Field(ge=2, multiple_of=2)]
    """Frames that are read, evenly over the clip; even, 2 or more."""
    frame_pixels: Count
    """Largest number of px of a frame, 1 or more; sides are rounded to whole patches."""
    lora_rank: Count
    """Rank of the adapter, 1 or more."""
    lora_alpha: Positive
    """Scale of the adapter, above 0: W + alpha / rank B A."""

    @model_validator(mode="after")
    def _question_has_its_tokens(self) -> "VlmDiscriminator":
        tokens = self.reward_tokens
        if not tokens or len(set(tokens)) != len(tokens):
            raise ValueError(f"reward_tokens must be distinct and not empty: {list(tokens)}")
        required = ("{prompt}", *tokens)
        wrong = [part for part in required if self.question.count(part) != 1]
        if wrong:
            raise ValueError(f"question must hold exactly once: {', '.join(wrong)}")
        return self


class DitFeaturesDiscriminator(LargeBackbone):
    """Small heads on chosen blocks of a frozen Wan; latents of both sides come from pixels."""

    kind: Literal["dit_features"]
    """Small heads on a frozen Wan."""
    layers: Listed[tuple[Annotated[int, Field(ge=0)], ...]]
    """Blocks of the transformer whose features are read, from 0; rising."""
    times: Listed[tuple[Annotated[float, Field(ge=0, lt=1)], ...]]
    """Noise levels t at which features are read, 0 to below 1; rising."""
    head_width: Count
    """Channels of a head, 1 or more."""

    @field_validator("layers", "times")
    @classmethod
    def _rising(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or sorted(set(values)) != list(values):
            raise ValueError(f"must be distinct, rising and not empty, got {list(values)}")
        return values


class PluginDiscriminator(Plugin):
    """A discriminator of another package (docs/extending.md)."""

    kind: Literal["plugin"]
    """A discriminator of another package."""


Discriminator = Annotated[
    ConvDiscriminator | VlmDiscriminator | DitFeaturesDiscriminator | PluginDiscriminator,
    Field(discriminator="kind"),
]
