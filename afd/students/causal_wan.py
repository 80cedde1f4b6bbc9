"""diffusers' Wan transformer made block-causal: one class for pocket and real checkpoints.

Only `forward` is overridden and the attention processors are exchanged (afd.students.attention);
parameters, keys and config stay Wan's own, so Wan folders load and LoRA trained here loads there.
Frames are folded into the batch, [batch * frames, patches, width], so that each frame carries its
own timestep through the stock modulation without a [batch, tokens, 6, width] tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
from afd.students.attention import (
    Bidirectional,
    Cached,
    CrossProcessor,
    KeyValueCache,
    Parallel,
    Reach,
    SelfContext,
    SelfProcessor,
    TextContext,
    rotations,
    text_keys_and_values,
)
from afd.students.initialisation import initialise

Prediction: TypeAlias = Literal["velocity", "clean"]
MISSING_GEOMETRY = "this CausalWan has no geometry: call adopt(geometry, prediction)"


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The part of Wan's untyped config that is read here; rows and columns of a patch."""

    patch_frames: int
    rows: int
    columns: int
    channels: int
    heads: int
    head_size: int
    half_freq_dim: int


class CausalWan(WanTransformer3DModel):
    """A Wan transformer that is a Student (afd.students.student).

    A model from `build` knows its geometry; one from `from_pretrained` must be told by `adopt`.
    """

    _geometry: LatentGeometry | None = None
    _prediction: Prediction = "velocity"

    def adopt(self, geometry: LatentGeometry, prediction: Prediction) -> "CausalWan":
        """Fix the latents' geometry and the meaning of the head's output; returns self.

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
        self._prediction = prediction
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
            heads=config.num_attention_heads,
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
        """An empty cache; the prompt's keys and values are computed once for all passes."""
        geometry, sizes = self.geometry, self._sizes
        patches = (geometry.height // sizes.rows) * (geometry.width // sizes.columns)
        embedded = self.condition_embedder.text_embedder(text)
        texts = [
            TextContext(
                geometry.latent_frames_per_block, None, *text_keys_and_values(block.attn2, embedded)
            )
            for block in self.layers
        ]
        tokens = geometry.num_latent_frames * patches
        shape = (len(text), sizes.heads, tokens, sizes.head_size)
        return KeyValueCache(
            texts,
            keys=[embedded.new_empty(shape) for _ in texts],
            values=[embedded.new_empty(shape) for _ in texts],
            frames_per_block=geometry.latent_frames_per_block,
            tokens_per_block=geometry.latent_frames_per_block * patches,
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
        cache.num_blocks += 1

    def _velocity(self, output: Latents, noisy: Latents, t: BlockTimes) -> Latents:
        if self._prediction == "velocity":
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
        the prompt given to `start`.
        """
        if encoder_hidden_states_image is not None or attention_kwargs is not None:
            raise ValueError("image conditioning and attention_kwargs are not supported")
        frames, num_frames = hidden_states, hidden_states.shape[2]
        if timestep.ndim == 1:
            timestep = timestep[:, None].expand(-1, num_frames)
        positions = list(range(num_frames))
        reach: Reach = Bidirectional()
        if cache is not None:
            first = cache.num_blocks * cache.frames_per_block
            positions = list(range(first, first + num_frames))
            reach = Cached(cache)
        elif clean is not None:
            # the last clean block is context to no block, so it never enters
            num_clean = num_frames - self.geometry.latent_frames_per_block
            frames = torch.cat([clean[:, :, :num_clean], frames], dim=2)
            timestep = torch.cat([timestep.new_zeros(len(frames), num_clean), timestep], dim=1)
            positions = positions[:num_clean] + positions
            reach = Parallel(self.geometry.num_blocks)
        text = encoder_hidden_states if cache is None else cache.texts
        output = self.under(reach, frames, timestep, positions, text, num_frames)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def under(
        self,
        reach: Reach,
        frames: Latents,
        timestep: Tensor,
        positions: list[int],
        text: Text | list[TextContext] | None,
        num_outputs: int,
    ) -> Latents:
        """The head's output for the last `num_outputs` frames when attention goes by `reach`.

        timestep is 1000 t [batch, frames], `positions` the place of each frame in the clip; text
        is encoded, or already projected for each layer. RuntimeError before `adopt`.
        """
        if self._geometry is None:
            raise RuntimeError(MISSING_GEOMETRY)
        hidden = self._embed_patches(frames)
        time, modulation = self._embed_times(timestep, hidden)
        rotation = self._rotations(positions, frames)
        if isinstance(text, list):
            texts = text
        else:
            embedded = self.condition_embedder.text_embedder(text)
            texts = [TextContext(len(positions), embedded)] * len(self.layers)
        for layer, block in enumerate(self.layers):
            context = SelfContext(layer, len(positions), rotation, reach)
            inputs = (hidden, texts[layer], modulation, context)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                checkpoint = cast(Callable[..., Tensor], self._gradient_checkpointing_func)
                hidden = checkpoint(block, *inputs)
            else:
                hidden = block(*inputs)
        return self._project(hidden, time, frames[:, :, -num_outputs:])

    def _embed_patches(self, frames: Latents) -> Tensor:
        """[batch, channels, frames, height, width] -> [batch * frames, patches, width].

        Wan's Conv3d with kernel = stride, as the matrix product it is: 1.3x faster at pocket size.
        """
        batch, channels, num_frames, height, width = frames.shape
        rows, columns = self._sizes.rows, self._sizes.columns
        patches = frames.reshape(
            batch, channels, num_frames, height // rows, rows, width // columns, columns
        )
        # -> batch, frames, row, column, channels, rows, columns
        patches = patches.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3).flatten(0, 1)
        projection = self.patch_embedding
        return linear(patches, projection.weight.flatten(1), projection.bias)

    def _embed_times(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """1000 t [batch, frames] -> embedding [batch * frames, width], modulation [.., 6, width].

        The sinusoid is computed in float64: in Wan's float32 an angle of 1000 keeps 4 digits.
        """
        embedder = self.condition_embedder
        half = self._sizes.half_freq_dim
        exponent = torch.arange(half, dtype=torch.float64, device=timestep.device) / half
        angles = timestep.flatten().double()[:, None] / 10000.0**exponent
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=1)
        weight = embedder.time_embedder.linear_1.weight
        time = embedder.time_embedder(sinusoid.to(weight.dtype)).type_as(like)
        modulation = embedder.time_proj(embedder.act_fn(time))
        return time, modulation.unflatten(1, (6, -1))

    def _rotations(self, positions: list[int], frames: Latents) -> Tensor:
        sizes = self._sizes
        grid = (frames.shape[3] // sizes.rows, frames.shape[4] // sizes.columns)
        return rotations(positions, grid, sizes.head_size, frames.device)

    def _project(self, hidden: Tensor, time: Tensor, like: Latents) -> Latents:
        """Wan's output head on the frames of `like`, which are the last ones of each sample."""
        batch, _, num_frames, height, width = like.shape
        tokens = hidden.reshape(batch, -1, *hidden.shape[1:])[:, -num_frames:]
        time = time.reshape(batch, -1, time.shape[1])[:, -num_frames:]
        modulation = self.scale_shift_table.to(time.device)[:, None] + time[:, :, None]
        shift, scale = modulation.chunk(2, dim=2)
        tokens = (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(hidden)
        rows, columns = self._sizes.rows, self._sizes.columns
        patches = self.proj_out(tokens).reshape(
            batch, num_frames, height // rows, width // columns, rows, columns, -1
        )
        # -> batch, channels, frames, row, rows, column, columns
        return patches.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


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
    return model.adopt(geometry, params.prediction)
