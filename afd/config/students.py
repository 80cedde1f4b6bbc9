"""Params of each student family, of its warm start and of its memory."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from afd.config.families import student_family
from afd.config.values import Count, NonNegative, Positive, Section, Share
from afd.config.world import LawsParams, LookParams

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # typing has it from Python 3.13 on


class PatchCodec(Section):
    """Fixed space-to-depth patches, then a PCA fitted on the warm-start corpus (null: none)."""

    kind: Literal["patch"]
    """Fixed space-to-depth patches."""
    frames: Count
    """Pixel frames of a latent frame, 1 or more."""
    components: Count | None
    """Components of a PCA fitted on the warm-start corpus, 1 or more; null: no PCA."""
    whitening: Share
    """Exponent of the whitening, 0 (none) to 1 (whole)."""


class CausalWanParams(Section):
    """diffusers' Wan transformer, block-causal. Defaults do not exist: a student is its values."""

    family: Literal["causal_wan"]
    """A fresh, small, block-causal Wan."""
    num_layers: Count
    """Blocks of the transformer, 1 or more."""
    num_heads: Count
    """Attention heads, 1 or more."""
    head_dim: Annotated[int, Field(ge=6, multiple_of=2)]
    """Channels of a head; even, 6 or more."""
    ffn_dim: Count
    """Channels of the feed-forward layers, 1 or more."""
    freq_dim: Annotated[int, Field(ge=2, multiple_of=2)]
    """Channels of the time embedding; even, 2 or more."""
    text_dim: Count
    """Channels of a text token, 1 or more."""
    num_text_tokens: Count
    """Text tokens of a prompt, 1 or more."""
    prediction: Literal["velocity", "clean"]
    """Meaning of the head's output."""
    init_gate: float
    """Offset of the modulation's gate rows at initialisation."""
    latent_frames_per_block: Count
    """Latent frames of an autoregressive block, 1 or more."""
    num_steps: Annotated[int, Field(ge=1, le=1000)]
    """Steps of the sampler, 1 to 1000."""
    shift: Positive
    """Shift of the sampler's noise levels, above 0; 1 is none."""
    codec: PatchCodec
    """Map between pixels and latents."""


class LoraParams(Section):
    """A low-rank adapter: all that trains of a published student. W + alpha / rank B A."""

    rank: Count
    """Rank of the adapter, 1 or more."""
    alpha: Positive
    """Scale of the adapter, above 0: W + alpha / rank B A."""
    targets: Literal["attention", "all"]
    """Linear layers with an adapter: those of the attentions; all: and of the feed-forward."""


class _Published(Section):
    """A published student: its weights come from files, and only a LoRA is trained.

    Paths are circumstance; the sha256 of what lies there is identity (afd.checkpoints).
    Rollouts are made without classifier-free guidance: those of a guided student would not be of
    the policy that is trained. `evaluate.guidance` measures under it (afd/flow/guidance.py).
    """

    checkpoint: str
    """Weights of the transformer: .pt, .safetensors or a Wan-Diffusers folder; or a LoRA over
    `base`. Content is identity."""
    base: str | None = None
    """Weights that a LoRA in `checkpoint` was trained on, in any form of whole weights; null:
    `checkpoint` is whole itself. Content is identity."""
    checkpoint_alpha: Positive | None = Field(default=None, exclude_if=lambda value: value is None)
    """alpha of a LoRA in `checkpoint` that does not tell its own; null: it does."""
    components: str
    """Folder with vae/, text_encoder/ and tokenizer/, as Wan2.1-T2V-*-Diffusers has them."""
    num_text_tokens: Annotated[int, Field(ge=1, le=512)]
    """Text tokens of a prompt, 1 to 512; a longer prompt is refused."""
    num_steps: Annotated[int, Field(ge=1, le=1000)]
    """Steps of the sampler, 1 to 1000."""
    shift: Positive
    """Shift of the sampler's noise levels, above 0; 1 is none."""
    lora: LoraParams
    """The adapter: all that trains."""
    precision: Literal["float32", "bfloat16"]
    """Precision of the network; latents and LoRA are float32."""


class _BlockCausalWan(_Published):
    """A published block-causal Wan."""

    weights: Literal["generator_ema", "generator"] | None
    """Entry of a .pt file; null: the first that is there."""
    head_dim: Annotated[int, Field(ge=6, multiple_of=2)]
    """Channels of a head; even, 6 or more; 128 in every published Wan."""
    latent_frames_per_block: Literal[1, 3]
    """Latent frames of an autoregressive block: 3 chunk-wise, 1 frame-wise."""
    window_frames: Count | None
    """Latent frames that a frame attends to, sink and own block included, 1 or more; null: all."""
    sink_frames: Annotated[int, Field(ge=0)]
    """First latent frames that a window never drops, 0 or more."""
    context_gradient: bool
    """Gradient flows through the clean blocks of a training pass."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        size, window = self.latent_frames_per_block, self.window_frames
        if self.sink_frames % size or (window or 0) % size:
            raise ValueError(
                f"window_frames {window} and sink_frames {self.sink_frames} must be multiples of "
                f"latent_frames_per_block {size}"
            )
        if window is None and self.sink_frames:
            raise ValueError(f"sink_frames {self.sink_frames} needs window_frames; write 0")
        if window is not None and window < self.sink_frames + size:
            raise ValueError(
                f"window_frames {window} must hold sink_frames {self.sink_frames} and a block of "
                f"{size}"
            )
        return self


class SelfForcingParams(_BlockCausalWan):
    """Self-Forcing (arXiv:2506.08009) and whatever shares its model code."""

    family: Literal["self_forcing"]
    """Self-Forcing (arXiv:2506.08009)."""


class CausalForcingParams(_BlockCausalWan):
    """Causal-Forcing: Self-Forcing's model and sampler, other weights."""

    family: Literal["causal_forcing"]
    """Causal-Forcing."""


class AnyFlowFarParams(_Published):
    """AnyFlow-FAR (arXiv:2605.13724) of diffusers: a causal flow map with FlexAttention."""

    family: Literal["anyflow_far"]
    """AnyFlow-FAR (arXiv:2605.13724)."""
    latent_frames_per_block: Count
    """Latent frames of an autoregressive block, 1 or more."""


Student = Annotated[
    CausalWanParams | SelfForcingParams | CausalForcingParams | AnyFlowFarParams,
    Field(discriminator="family"),
]
BlockCausalWan = SelfForcingParams | CausalForcingParams
PublishedStudent = SelfForcingParams | CausalForcingParams | AnyFlowFarParams


def is_published(student: Student) -> "TypeIs[PublishedStudent]":
    """Return True for a student that starts from files and trains a LoRA."""
    return student_family(student.family).is_published


class MemoryParams(Section):
    """Use of memory in an update. Circumstance: equal results up to the order of sums."""

    micro_batch: Count | None = None
    """Rows with gradient in memory at once, 1 or more; null: all of a rank's."""
    may_halve: bool = False
    """Halve micro_batch once when memory runs out; the batch stays what it is."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile_blocks: bool = False
    """torch.compile of the transformer's blocks."""
    shard_blocks: bool = False
    """Ranks share the frozen weights (FSDP2); false: each rank holds all of them."""

    @model_validator(mode="after")
    def _alike_on_all_ranks(self) -> Self:
        if self.shard_blocks and self.may_halve:
            raise ValueError(
                "may_halve needs shard_blocks false: a rank that is out of memory cannot tell the "
                "others, which wait for its share of a block; set micro_batch instead"
            )
        return self


class CorpusTraining(Section):
    """Flow matching on clips of the pocket world."""

    num_clips: Count
    """Clips of the corpus, 1 or more."""
    num_steps: Count
    """Training steps, 1 or more."""
    batch_size: Count
    """Clips of a step, 1 or more."""
    learning_rate: Positive
    """Learning rate of AdamW after the warm-up, above 0."""
    weight_decay: NonNegative
    """AdamW's weight decay, 0 or more."""
    warmup_steps: Annotated[int, Field(ge=0)]
    """Steps of the linear warm-up of the learning rate, 0 or more."""
    ema_decay: Share
    """Decay of the average of the weights, a step, 0 to 1."""
    times: Literal["steps", "uniform", "shifted_uniform"]
    """Distribution of the noise level t: the sampler's steps, uniform, or uniform and shifted."""


class WarmstartParams(CorpusTraining):
    """A corpus with the right look and the wrong physics."""

    laws: LawsParams
    """Motion in the corpus: wrong physics on purpose."""
    look: LookParams
    """Look of the corpus."""


class WhiteBoxParams(CorpusTraining):
    """A white-box teacher: a network of the student's family, trained on the teacher's clips.

    Distribution matching needs its velocity; no vendor sells one.
    """
