"""diffusers' Wan transformer made block-causal: one class for pocket and real checkpoints.

Only `forward` is overridden and the attention processors are exchanged (afd.students.attention);
parameters, keys and config stay Wan's own, so Wan folders load and LoRA trained here loads there.
Frames are folded into the batch, [batch * frames, patches, width], so that each frame carries its
own timestep through the stock modulation without a [batch, tokens, 6, width] tensor.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from torch import Generator, Tensor
from torch.nn.functional import linear

from afd.config import CausalWanParams
from afd.flow import path
from afd.flow.times import SMALLEST_TIME
from afd.latents import BlockTimes, LatentGeometry, Latents, Text
from afd.students.attention import CrossProcessor, SelfContext, SelfProcessor, rotations
from afd.students.initialisation import initialise
from afd.students.patches import from_patches, to_patches
from afd.students.precision import Precision, computing, exactly
from afd.students.reach import (
    ALL,
    AfterContext,
    Bidirectional,
    Cached,
    Context,
    History,
    KeyValueCache,
    Parallel,
    Reach,
    TextContext,
)

Prediction: TypeAlias = Literal["velocity", "clean"]
MISSING_GEOMETRY = "this CausalWan has no geometry: call adopt(geometry)"


@dataclass(frozen=True, slots=True)
class Manner:
    """How a student runs its network; nothing of it is a weight.

    Without `context_gradient` a training pass reads the clean blocks in a pass of their own that
    keeps no graph: at real size 990 TFLOP a sample instead of 1,600, and an eighth of the memory.
    With precision bfloat16 matrix products and attention run in bfloat16 under autocast; latents,
    the time embedding, modulations and trained weights stay float32.
    """

    prediction: Prediction = "velocity"  # what the head's output means
    history: History = ALL
    context_gradient: bool = True
    precision: Precision = "float32"


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The part of Wan's untyped config that is read here; rows and columns of a patch."""

    patch_frames: int
    rows: int
    columns: int
    channels: int
    head_size: int
    half_freq_dim: int


class CausalWan(WanTransformer3DModel):
    """A Wan transformer that is a Student (afd.students.student).

    A model from `build` knows its geometry; one from `from_pretrained` must be told by `adopt`.
    """

    _geometry: LatentGeometry | None = None
    _manner: Manner = Manner()

    def adopt(self, geometry: LatentGeometry, manner: Manner = Manner()) -> "CausalWan":
        """Fix the latents' geometry and how the network is run; returns self.

        Raises ValueError when the geometry does not fit the config.
        """
        sizes = self._sizes
        if sizes.patch_frames != 1:
            raise ValueError(f"patch_size starts with {sizes.patch_frames}: must start with 1")
        if geometry.height % sizes.rows or geometry.width % sizes.columns:
            raise ValueError(
                f"latents of {geometry.height}x{geometry.width} do not divide into patches of"
                f" {sizes.rows}x{sizes.columns}"
            )
        if geometry.channels != sizes.channels:
            raise ValueError(
                f"latents have {geometry.channels} channels: in_channels is {sizes.channels}"
            )
        self._geometry = geometry
        self._manner = manner
        for block in self.layers:
            # diffusers lists its own processors as a closed union
            block.attn1.set_processor(cast(Any, SelfProcessor()))
            block.attn2.set_processor(cast(Any, CrossProcessor()))
        return self

    @property
    def geometry(self) -> LatentGeometry:
        """Shape and blocks of the latents; RuntimeError before `adopt`."""
        if self._geometry is None:
            raise RuntimeError(MISSING_GEOMETRY)
        return self._geometry

    def lengthened(self, num_latent_frames: int) -> "CausalWan":
        """The same weights for clips of another length: rollouts may be longer than training."""
        longer = copy.copy(self)
        longer._geometry = replace(self.geometry, num_latent_frames=num_latent_frames)
        return longer

    @property
    def _place(self) -> torch.device:
        """Where the network is. diffusers' own `device` asks every module: 10 % of a small pass."""
        return self.patch_embedding.weight.device

    @property
    def layers(self) -> list[WanTransformerBlock]:
        """Wan's transformer blocks (a block in this project's words is a piece of a clip)."""
        return cast(list[WanTransformerBlock], list(self.blocks))

    @property
    def _sizes(self) -> _Sizes:
        config = cast(Any, self.config)
        return _Sizes(
            *config.patch_size,
            channels=config.in_channels,
            head_size=config.attention_head_dim,
            half_freq_dim=config.freq_dim // 2,
        )

    # ---------------------------------------------------------------------- the student

    def velocity(self, noisy: Latents, t: BlockTimes, text: Text, clean: Latents) -> Latents:
        """Velocity of every block at t [batch, blocks] in one pass over [clean | noisy]."""
        times = t.repeat_interleave(self.geometry.latent_frames_per_block, dim=1)
        output = self(noisy, 1000 * times, text, return_dict=False, clean=clean)[0]
        return self._velocity(output, noisy, t)

    def start(self, text: Text) -> KeyValueCache:
        """An empty cache; its first pass makes the buffers and the prompt's keys and values."""
        geometry, sizes = self.geometry, self._sizes
        patches = (geometry.height // sizes.rows) * (geometry.width // sizes.columns)
        return KeyValueCache(
            text.to(self._place),
            frames_per_block=geometry.latent_frames_per_block,
            tokens_per_block=geometry.latent_frames_per_block * patches,
            max_blocks=geometry.num_blocks,
            history=self._manner.history,
        )

    def block_velocity(self, noisy_block: Latents, t: Tensor, cache: KeyValueCache) -> Latents:
        """Velocity of the next block at t [batch]; differentiable when gradients are enabled."""
        output = self(noisy_block, 1000 * t, None, return_dict=False, cache=cache)[0]
        return self._velocity(output, noisy_block, t[:, None])

    @torch.no_grad()
    def commit(self, clean_block: Latents, cache: KeyValueCache) -> None:
        """One pass at t = 0 leaves the block's keys and values in the cache for good."""
        t = clean_block.new_zeros(clean_block.shape[0])
        self(clean_block, t, None, return_dict=False, cache=cache)
        cache.committed()

    def _velocity(self, output: Latents, noisy: Latents, t: BlockTimes) -> Latents:
        if self._manner.prediction == "velocity":
            return output
        return path.velocity_from_clean(noisy, output, t.clamp_min(SMALLEST_TIME))

    # ---------------------------------------------------------------------- the network

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - stock's returns are wrong
        self,
        hidden_states: Latents,
        timestep: Tensor,
        encoder_hidden_states: Text | None,
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        *,
        clean: Latents | None = None,
        cache: KeyValueCache | None = None,
    ) -> Transformer2DModelOutput | tuple[Latents]:
        """The head's output for `hidden_states`; timestep is 1000 t, [batch] or [batch, frames].

        Without `clean` or `cache` this is stock Wan: every frame attends to every frame. With
        `clean`, the parallel causal pass; with `cache`, one block after the committed ones, under
        the prompt given to `start`. Computed where the network is, given back where it came from.
        """
        if encoder_hidden_states_image is not None or attention_kwargs is not None:
            raise ValueError("image conditioning and attention_kwargs are not supported")
        home, device = hidden_states.device, self._place
        hidden_states, timestep = hidden_states.to(device), timestep.to(device)
        num_frames = hidden_states.shape[2]
        if timestep.ndim == 1:
            timestep = timestep[:, None].expand(-1, num_frames)
        text = None if encoder_hidden_states is None else encoder_hidden_states.to(device)
        if cache is not None:
            first = cache.num_blocks * cache.frames_per_block
            positions = list(range(first, first + num_frames))
            output = self.under(Cached(cache), hidden_states, timestep, positions, cache)
        elif clean is not None:
            output = self._after_clean(hidden_states, timestep, text, clean.to(device))
        else:
            positions = list(range(num_frames))
            output = self.under(Bidirectional(), hidden_states, timestep, positions, text)
        output = output.to(home)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _after_clean(
        self, noisy: Latents, timestep: Tensor, text: Text | None, clean: Latents
    ) -> Latents:
        """The parallel causal pass; the last clean block is nobody's context and never enters."""
        num_frames, num_blocks = noisy.shape[2], self.geometry.num_blocks
        num_clean = num_frames - self.geometry.latent_frames_per_block
        noisy_at = list(range(num_frames))
        context, history = clean[:, :, :num_clean], self._manner.history
        at_zero = timestep.new_zeros(len(noisy), num_clean)
        if self._manner.context_gradient:
            frames = torch.cat([context, noisy], dim=2)
            timestep = torch.cat([at_zero, timestep], dim=1)
            reach: Reach = Parallel(num_blocks, history)
            positions = noisy_at[:num_clean] + noisy_at
            return self.under(reach, frames, timestep, positions, text, num_frames)
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        if num_clean:
            with torch.no_grad():
                reach = Context(num_blocks - 1, history, kept)
                self.under(reach, context, at_zero, noisy_at[:num_clean], text)
        return self.under(AfterContext(num_blocks, kept, history), noisy, timestep, noisy_at, text)

    def under(
        self,
        reach: Reach,
        frames: Latents,
        timestep: Tensor,
        positions: list[int],
        text: Text | KeyValueCache | None,
        num_outputs: int | None = None,
    ) -> Latents:
        """The head's output for the last `num_outputs` frames when attention goes by `reach`.

        timestep is 1000 t [batch, frames], `positions` the place of each frame in the clip; text
        is encoded, or kept by a rollout's cache. RuntimeError before `adopt`.
        """
        if self._geometry is None:
            raise RuntimeError(MISSING_GEOMETRY)
        with computing(self._manner.precision, frames.device):
            hidden = self._embed_patches(frames)
            time, modulation = self._embed_times(timestep)
            rotation = self._rotations(positions, frames)
            texts = self._texts(text, len(positions))
            for layer, block in enumerate(self.layers):
                context = SelfContext(layer, len(positions), rotation, reach)
                inputs = (hidden, texts[layer], modulation, context)
                if torch.is_grad_enabled() and self.gradient_checkpointing:
                    checkpoint = cast(Callable[..., Tensor], self._gradient_checkpointing_func)
                    hidden = checkpoint(block, *inputs)
                else:
                    hidden = block(*inputs)
            like = frames if num_outputs is None else frames[:, :, -num_outputs:]
            return self._project(hidden, time, like).type_as(frames)

    def _texts(self, text: Text | KeyValueCache | None, num_frames: int) -> list[TextContext]:
        """The prompt for each layer, kept over a rollout unless gradients must reach it."""
        if isinstance(text, KeyValueCache):
            if torch.is_grad_enabled():
                return self._texts(text.text, num_frames)
            if not text.texts:
                embedded = self.condition_embedder.text_embedder(text.text)
                text.texts = [TextContext(num_frames, embedded, is_kept=True) for _ in self.layers]
            return text.texts
        embedded = self.condition_embedder.text_embedder(text)
        return [TextContext(num_frames, embedded)] * len(self.layers)

    def _embed_patches(self, frames: Latents) -> Tensor:
        """[batch, channels, frames, height, width] -> [batch * frames, patches, width].

        Wan's Conv3d with kernel = stride, as the matrix product it is: 1.3x faster at pocket size.
        """
        patches = to_patches(frames, self._sizes.rows, self._sizes.columns)
        projection = self.patch_embedding
        return linear(patches, projection.weight.flatten(1), projection.bias)

    def _embed_times(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """1000 t [batch, frames] -> embedding [batch * frames, width], modulation [.., 6, width].

        The sinusoid is computed in float64: in Wan's float32 an angle of 1000 keeps 4 digits.
        """
        embedder = self.condition_embedder
        half = self._sizes.half_freq_dim
        exponent = torch.arange(half, dtype=torch.float64, device=timestep.device) / half
        angles = timestep.flatten().double()[:, None] / 10000.0**exponent
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=1)
        weight = embedder.time_embedder.linear_1.weight
        with exactly(timestep.device):
            time = embedder.time_embedder(sinusoid.to(weight.dtype))
            modulation = embedder.time_proj(embedder.act_fn(time))
        return time, modulation.unflatten(1, (6, -1))

    def _rotations(self, positions: list[int], frames: Latents) -> Tensor:
        sizes = self._sizes
        grid = (frames.shape[3] // sizes.rows, frames.shape[4] // sizes.columns)
        return rotations(tuple(positions), grid, sizes.head_size, frames.device)

    def _project(self, hidden: Tensor, time: Tensor, like: Latents) -> Latents:
        """Wan's output head on the frames of `like`, which are the last ones of each sample."""
        batch, _, num_frames, height, width = like.shape
        tokens = hidden.reshape(batch, -1, *hidden.shape[1:])[:, -num_frames:]
        time = time.reshape(batch, -1, time.shape[1])[:, -num_frames:]
        modulation = self.scale_shift_table.to(time.device)[:, None] + time[:, :, None]
        shift, scale = modulation.chunk(2, dim=2)
        tokens = (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(hidden)
        patches = self.proj_out(tokens)
        return from_patches(patches, (height, width), self._sizes.rows, self._sizes.columns)


def build(
    params: CausalWanParams, geometry: LatentGeometry, generator: Generator, patch: int = 1
) -> CausalWan:
    """A fresh student at params' sizes, initialised from `generator` alone.

    `patch` is the side of a spatial patch in latents: 1 at pocket size, 2 in Wan's checkpoints.
    """
    # diffusers' own initialisation draws globally
    with torch.random.fork_rng(devices=()):  # pyright: ignore[reportUnknownMemberType]
        model = CausalWan(
            patch_size=(1, patch, patch),
            num_attention_heads=params.num_heads,
            attention_head_dim=params.head_dim,
            in_channels=geometry.channels,
            out_channels=geometry.channels,
            text_dim=params.text_dim,
            freq_dim=params.freq_dim,
            ffn_dim=params.ffn_dim,
            num_layers=params.num_layers,
        )
    initialise(model, params.init_gate, generator)
    return model.adopt(geometry, Manner(params.prediction))
