"""Who learns, and from which start."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from afd.config.values import Count, Frozen, NonNegative, Positive, Share
from afd.config.world import LawsParams, LookParams


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


class LoraParams(Frozen):
    """A low-rank adapter: all that trains of a published student. W + alpha / rank B A."""

    rank: Count
    alpha: Positive
    targets: Literal["attention", "all"]  # linears of the attentions; all: and of the feed-forward


class _Published(Frozen):
    """A student somebody has trained: its weights come from files and only a LoRA is trained.

    Paths are circumstance; the sha256 of what lies there is identity (afd.checkpoints).
    Rollouts are made without classifier-free guidance: those of a guided student would not be of
    the policy that is trained. `evaluate.guidance` judges under it (afd/flow/guidance.py).
    """

    checkpoint: str  # of the transformer: .pt, .safetensors or a Wan-Diffusers folder
    components: str  # folder with vae/, text_encoder/ and tokenizer/, as Wan2.1-T2V-*-Diffusers
    num_text_tokens: Annotated[int, Field(ge=1, le=512)]  # a longer prompt is refused
    num_steps: Annotated[int, Field(ge=1, le=1000)]
    shift: Positive
    lora: LoraParams
    precision: Literal["float32", "bfloat16"]  # of the network; latents and LoRA are float32


class _BlockCausalWan(_Published):
    """A published block-causal Wan."""

    weights: Literal["generator_ema", "generator"] | None  # of a .pt; null: the first that is there
    head_dim: Annotated[int, Field(ge=6, multiple_of=2)]  # 128 in every published Wan
    latent_frames_per_block: Literal[1, 3]  # 3 chunk-wise, 1 frame-wise
    window_frames: (
        Count | None
    )  # latent frames a frame sees, sink and own block included; null: all
    sink_frames: Annotated[int, Field(ge=0)]  # first latent frames that a window never forgets
    context_gradient: bool  # through the clean blocks of a training pass

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


class CausalForcingParams(_BlockCausalWan):
    """Causal-Forcing: Self-Forcing's model and sampler, other weights."""

    family: Literal["causal_forcing"]


class AnyFlowFarParams(_Published):
    """AnyFlow-FAR (arXiv:2605.13724) of diffusers: a causal flow map with FlexAttention."""

    family: Literal["anyflow_far"]
    latent_frames_per_block: Count


Student = Annotated[
    CausalWanParams | SelfForcingParams | CausalForcingParams | AnyFlowFarParams,
    Field(discriminator="family"),
]
BlockCausalWan = SelfForcingParams | CausalForcingParams
PublishedStudent = SelfForcingParams | CausalForcingParams | AnyFlowFarParams


class MemoryParams(Frozen):
    """What an update keeps in memory: circumstance, the result is the same up to order of sums."""

    micro_batch: Count | None = None  # rows with gradient at once; null: all of a rank's
    may_halve: bool = False  # once, when memory runs out; the batch stays what it is
    gradient_checkpointing: bool = False
    compile_blocks: bool = False  # torch.compile of the transformer's blocks
    shard_blocks: bool = False  # ranks share out what is frozen (FSDP2); false: each holds all

    @model_validator(mode="after")
    def _alike_on_all_ranks(self) -> Self:
        if self.shard_blocks and self.may_halve:
            raise ValueError(
                "may_halve needs shard_blocks false: a rank that is out of memory cannot tell the "
                "others, which wait for its share of a block; set micro_batch instead"
            )
        return self


class CorpusTraining(Frozen):
    """Flow matching on films of the pocket world."""

    num_clips: Count
    num_steps: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative
    warmup_steps: Annotated[int, Field(ge=0)]
    ema_decay: Share
    times: Literal["steps", "uniform", "shifted_uniform"]


class WarmstartParams(CorpusTraining):
    """A corpus with the right look and the wrong physics."""

    laws: LawsParams
    look: LookParams


class WhiteBoxParams(CorpusTraining):
    """A network of the student's family that learned the teacher's films and shows its velocity.

    What distribution matching needs and no vendor sells.
    """
