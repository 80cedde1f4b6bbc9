"""Block-causal Wan: diffusers' transformer as a student, for pocket and published checkpoints.

Only `forward` is overridden and the attention processors are exchanged (afd.students.attention).
Parameters, keys and config are Wan's own, so Wan folders load here and LoRA trained here loads in
diffusers.
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
from torch import Tensor

from afd.flow import path
from afd.flow.times import SMALLEST_TIME
from afd.latents import BlockTimes, LatentGeometry, Latents, Text
from afd.students.attention import CrossProcessor, SelfContext, SelfProcessor, rotations
from afd.students.attention_pattern import (
    ALL,
    AfterContext,
    AttentionPattern,
    Bidirectional,
    Context,
    History,
    KeysAndValues,
    Parallel,
)
from afd.students.key_value_cache import Cached, KeyValueCache, TextContext
from afd.students.precision import Precision, autocast_to
from afd.students.wan_embeddings import embed_patches, embed_times, project_out

Prediction: TypeAlias = Literal["velocity", "clean"]
MISSING_GEOMETRY = "this CausalWan has no geometry: call configure(geometry)"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a student's passes that are no weights.

    Without `context_gradient` a training pass computes the clean blocks in a pass of their own
    without a graph: at real size 990 TFLOP a sample instead of 1,600, and an eighth of the memory.
    With precision bfloat16 matrix products and attention run in bfloat16 under autocast; latents,
    the time embedding, modulations and trained weights stay float32.
    """

    prediction: Prediction = "velocity"  # meaning of the head's output
    history: History = ALL
    context_gradient: bool = True
    precision: Precision = "float32"


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Sizes from Wan's untyped config; rows and columns are of a patch."""

    patch_frames: int
    rows: int
    columns: int
    channels: int
    head_size: int
    half_freq_dim: int


class CausalWan(WanTransformer3DModel):
    """A Wan transformer that is a Student (afd.students.student).

    A model from `initialisation.build` has its geometry; one from `from_pretrained` gets it by
    `configure`.
    """

    _geometry: LatentGeometry | None = None
    _options: RunOptions = RunOptions()

    def configure(
        self, geometry: LatentGeometry, options: RunOptions = RunOptions()
    ) -> "CausalWan":
        """Set the latents' geometry and the run options; return self.

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
        self._options = options
        for block in self.layers:
            # diffusers lists its own processors as a closed union
            block.attn1.set_processor(cast(Any, SelfProcessor()))
            block.attn2.set_processor(cast(Any, CrossProcessor()))
        return self

    @property
    def geometry(self) -> LatentGeometry:
        """Shape and blocks of the latents; RuntimeError before `configure`."""
        if self._geometry is None:
            raise RuntimeError(MISSING_GEOMETRY)
        return self._geometry

    def lengthened(self, num_latent_frames: int) -> "CausalWan":
        """Return a student that shares these weights, for clips longer than in training."""
        longer = copy.copy(self)
        longer._geometry = replace(self.geometry, num_latent_frames=num_latent_frames)
        return longer

    @property
    def _place(self) -> torch.device:
        """Device of the network. diffusers' own `device` visits every module: 10 % of a pass."""
        return self.patch_embedding.weight.device

    @property
    def layers(self) -> list[WanTransformerBlock]:
        """Transformer blocks of Wan (a block, elsewhere in this project, is a piece of a clip)."""
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
        """Return the velocity of every block at t [batch, blocks], from one pass."""
        times = t.repeat_interleave(self.geometry.latent_frames_per_block, dim=1)
        output = self(noisy, 1000 * times, text, return_dict=False, clean=clean)[0]
        return self._velocity(output, noisy, t)

    def start(self, text: Text) -> KeyValueCache:
        """Return an empty cache; its first pass fills in buffers and the prompt's keys."""
        geometry, sizes = self.geometry, self._sizes
        patches = (geometry.height // sizes.rows) * (geometry.width // sizes.columns)
        return KeyValueCache(
            text.to(self._place),
            frames_per_block=geometry.latent_frames_per_block,
            tokens_per_block=geometry.latent_frames_per_block * patches,
            max_blocks=geometry.num_blocks,
            history=self._options.history,
        )

    def block_velocity(self, noisy_block: Latents, t: Tensor, cache: KeyValueCache) -> Latents:
        """Return the velocity of the next block at t [batch]; differentiable."""
        output = self(noisy_block, 1000 * t, None, return_dict=False, cache=cache)[0]
        return self._velocity(output, noisy_block, t[:, None])

    @torch.no_grad()
    def commit(self, clean_block: Latents, cache: KeyValueCache) -> None:
        """Add the block's keys and values to the cache, by one pass at t = 0."""
        t = clean_block.new_zeros(clean_block.shape[0])
        self(clean_block, t, None, return_dict=False, cache=cache)
        cache.advance()

    def _velocity(self, output: Latents, noisy: Latents, t: BlockTimes) -> Latents:
        if self._options.prediction == "velocity":
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
        """Return the head's output for `hidden_states`.

        timestep is 1000 t, [batch] or [batch, frames]. Without `clean` or `cache` this is stock
        Wan: every frame attends to every frame. With `clean` this is the parallel causal pass; with
        `cache` the pass of one block after the committed ones, under the prompt of `start`. The
        pass runs on the network's device, and its output returns to that of the input.
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
            output = self.run_pattern(Cached(cache), hidden_states, timestep, positions, cache)
        elif clean is not None:
            output = self._after_clean(hidden_states, timestep, text, clean.to(device))
        else:
            positions = list(range(num_frames))
            output = self.run_pattern(Bidirectional(), hidden_states, timestep, positions, text)
        output = output.to(home)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _after_clean(
        self, noisy: Latents, timestep: Tensor, text: Text | None, clean: Latents
    ) -> Latents:
        """Run the parallel causal pass; the last clean block is no context and never enters."""
        num_frames, num_blocks = noisy.shape[2], self.geometry.num_blocks
        num_clean = num_frames - self.geometry.latent_frames_per_block
        noisy_at = list(range(num_frames))
        context, history = clean[:, :, :num_clean], self._options.history
        at_zero = timestep.new_zeros(len(noisy), num_clean)
        if self._options.context_gradient:
            frames = torch.cat([context, noisy], dim=2)
            timestep = torch.cat([at_zero, timestep], dim=1)
            pattern: AttentionPattern = Parallel(num_blocks, history)
            positions = noisy_at[:num_clean] + noisy_at
            return self.run_pattern(pattern, frames, timestep, positions, text, num_frames)
        stored: KeysAndValues = {}
        if num_clean:
            with torch.no_grad():
                pattern = Context(num_blocks - 1, history, stored)
                self.run_pattern(pattern, context, at_zero, noisy_at[:num_clean], text)
        return self.run_pattern(
            AfterContext(num_blocks, stored, history), noisy, timestep, noisy_at, text
        )

    def run_pattern(
        self,
        pattern: AttentionPattern,
        frames: Latents,
        timestep: Tensor,
        positions: list[int],
        text: Text | KeyValueCache | None,
        num_outputs: int | None = None,
    ) -> Latents:
        """Return the head's output of the last `num_outputs` frames under an attention pattern.

        timestep is 1000 t [batch, frames], `positions` the place of each frame in the clip; text
        is an encoded prompt or a rollout's cache with one. RuntimeError before `configure`.
        """
        if self._geometry is None:
            raise RuntimeError(MISSING_GEOMETRY)
        with autocast_to(self._options.precision, frames.device):
            sizes = self._sizes
            hidden = embed_patches(self, frames, sizes.rows, sizes.columns)
            time, modulation = embed_times(self, timestep, sizes.half_freq_dim)
            rotation = self._rotations(positions, frames)
            texts = self._texts(text, len(positions))
            for layer, block in enumerate(self.layers):
                context = SelfContext(layer, len(positions), rotation, pattern)
                inputs = (hidden, texts[layer], modulation, context)
                if torch.is_grad_enabled() and self.gradient_checkpointing:
                    checkpoint = cast(Callable[..., Tensor], self._gradient_checkpointing_func)
                    hidden = checkpoint(block, *inputs)
                else:
                    hidden = block(*inputs)
            like = frames if num_outputs is None else frames[:, :, -num_outputs:]
            output = project_out(self, hidden, time, like, (sizes.rows, sizes.columns))
            return output.type_as(frames)

    def _texts(self, text: Text | KeyValueCache | None, num_frames: int) -> list[TextContext]:
        """Return the prompt for each layer, cached in a rollout unless gradients must reach it."""
        if isinstance(text, KeyValueCache):
            if torch.is_grad_enabled():
                return self._texts(text.text, num_frames)
            if not text.texts:
                embedded = self.condition_embedder.text_embedder(text.text)
                text.texts = [
                    TextContext(num_frames, embedded, is_cached=True) for _ in self.layers
                ]
            return text.texts
        embedded = self.condition_embedder.text_embedder(text)
        return [TextContext(num_frames, embedded)] * len(self.layers)

    def _rotations(self, positions: list[int], frames: Latents) -> Tensor:
        sizes = self._sizes
        grid = (frames.shape[3] // sizes.rows, frames.shape[4] // sizes.columns)
        return rotations(tuple(positions), grid, sizes.head_size, frames.device)
