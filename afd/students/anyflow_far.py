"""AnyFlow-FAR of diffusers as a Student: a causal flow map u(t, r) with FlexAttention.

The mean velocity goes from t straight to r = 0, so clean = noisy - t u(t, 0) is one jump and the
re-noising sampler of afd.flow.solver applies unchanged. Attention reads the last `full_chunk_limit`
blocks in full and earlier ones in larger patches. So every block's velocity is a pass of its own
over [far context | noisy | clean]: that is exact, and one pass over all blocks would not be.

Differences to the released pipeline: blocks are of one size (it uses 1 + 3 x 6 + 2 latent frames),
and steps are re-noised instead of mapped on.

FlexAttention has no backward pass on a CPU, so training needs a GPU and is refused elsewhere.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from diffusers.models.transformers.transformer_anyflow_far import (
    AnyFlowCausalAttnProcessor,
    AnyFlowFARTransformer3DModel,
    apply_rotary_emb,
)
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from afd.latents import BlockTimes, LatentGeometry, Latents, Text
from afd.students.precision import Precision, autocast_to
from afd.students.strict_loading import CheckpointError, UntrainableError, load_strictly
from afd.students.wan_checkpoints import read_folder, reading

STOCK_CLASS = "AnyFlowFARTransformer3DModel"


@dataclass(slots=True)
class FarCache:
    """History of one rollout: the clean blocks, and the network's buffers of each layer."""

    text: Text
    blocks: list[Latents] = field(default_factory=list[Tensor])
    layers: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)


class FarProcessor(AnyFlowCausalAttnProcessor):
    """Stock attention, except in the pass of a rollout that reads the cache.

    In that pass diffusers pads queries and keys with zeros to a multiple of 128 and masks nothing.
    Zero keys then take part in every softmax of a rollout, and of no training pass: 56 beside
    14,000 at real size, most of all keys at small sizes. Without a mask nothing needs padding.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Any = None,
        rotary_emb: dict[str, Tensor] | None = None,
        kv_cache: dict[str, Tensor] | None = None,
        kv_cache_flag: dict[str, Any] | None = None,
    ) -> Tensor:
        if attention_mask is not None or kv_cache is None or kv_cache_flag is None:
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb,
                kv_cache, kv_cache_flag,
            )  # fmt: skip
        query, key, value = (
            states.to(hidden_states.dtype).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for states in (
                attn.norm_q(attn.to_q(hidden_states)),
                attn.norm_k(attn.to_k(hidden_states)),
                attn.to_v(hidden_states),
            )
        )
        far = kv_cache_flag["num_cached_compressed_tokens"]
        full = kv_cache_flag["num_cached_full_tokens"]
        past = [
            torch.cat([compressed[:, :, :far], recent[:, :, :full]], dim=2)
            for compressed, recent in zip(
                kv_cache["compressed_cache"], kv_cache["full_cache"], strict=True
            )
        ]
        rotation = cast(dict[str, Tensor], rotary_emb)
        key = apply_rotary_emb(torch.cat([past[0], key], dim=2), rotation["key"])
        query = apply_rotary_emb(query, rotation["query"])
        value = torch.cat([past[1], value], dim=2)
        output = scaled_dot_product_attention(query, key.type_as(query), value.type_as(query))
        return attn.to_out[1](attn.to_out[0](output.transpose(1, 2).flatten(2)))


class AnyFlowFar(AnyFlowFARTransformer3DModel):
    """diffusers' AnyFlow-FAR as a Student (afd.students.student), after `configure`."""

    _geometry: LatentGeometry | None = None
    _precision: Precision = "float32"

    def configure(self, geometry: LatentGeometry, precision: Precision = "float32") -> "AnyFlowFar":
        """Set the latents' geometry and the precision; return self.

        Raises ValueError when the geometry does not fit the config.
        """
        sizes = cast(Any, self.config)
        for patch in (sizes.patch_size, sizes.compressed_patch_size):
            if patch[0] != 1 or geometry.height % patch[1] or geometry.width % patch[2]:
                raise ValueError(
                    f"latents of {geometry.height}x{geometry.width} do not divide into patches of"
                    f" {tuple(patch)}"
                )
        if geometry.channels != sizes.in_channels:
            raise ValueError(
                f"latents have {geometry.channels} channels: in_channels is {sizes.in_channels}"
            )
        self._geometry, self._precision = geometry, precision
        for block in cast(Any, self.blocks):
            block.attn1.set_processor(FarProcessor())
        return self

    @property
    def geometry(self) -> LatentGeometry:
        """Shape and blocks of the latents; RuntimeError before `configure`."""
        if self._geometry is None:
            raise RuntimeError("this AnyFlowFar has no geometry: call configure(geometry)")
        return self._geometry

    def lengthened(self, num_latent_frames: int) -> "AnyFlowFar":
        """Return a student that shares these weights, for clips of another length."""
        longer = copy.copy(self)
        longer._geometry = replace(self.geometry, num_latent_frames=num_latent_frames)
        return longer

    def velocity(self, noisy: Latents, t: BlockTimes, text: Text, clean: Latents) -> Latents:
        """Return the velocity of every block at t [batch, blocks], each in a pass of its own.

        Raises UntrainableError where gradients are enabled on a CPU.
        """
        if torch.is_grad_enabled() and self.device.type == "cpu":
            raise UntrainableError(
                "student.family anyflow_far cannot be trained on a CPU: FlexAttention has no "
                "backward pass there. Rollouts and evaluation work; run update on a GPU, or take "
                "another family"
            )
        geometry = self.geometry
        size = geometry.latent_frames_per_block
        parts = [
            self._last_block(
                noisy[:, :, : block * size + size], t[:, block], text, clean[:, :, : block * size]
            )
            for block in range(geometry.num_blocks)
        ]
        return torch.cat(parts, dim=2)

    def start(self, text: Text) -> FarCache:
        """Return an empty history."""
        return FarCache(text)

    def block_velocity(self, noisy_block: Latents, t: Tensor, cache: FarCache) -> Latents:
        """Return the velocity of the next block at t [batch]; the history does not change."""
        times = self._times(t, noisy_block)
        return self._run(
            like=noisy_block,
            hidden_states=noisy_block,
            timestep=times,
            r_timestep=torch.zeros_like(times),
            encoder_hidden_states=cache.text,
            chunk_partition=[noisy_block.shape[2]] * (cache.num_blocks + 1),
            kv_cache=self._cache_buffers(cache, noisy_block),
            kv_cache_flag={"num_cached_chunks": cache.num_blocks, "is_cache_step": False},
        )

    @torch.no_grad()
    def commit(self, clean_block: Latents, cache: FarCache) -> None:
        """Append a block, and encode the visible history anew: far blocks in larger patches."""
        cache.blocks.append(clean_block)
        past = torch.cat(cache.blocks, dim=2)
        at_zero = past.new_zeros(len(past), past.shape[2])
        self._run(
            like=None,
            hidden_states=past,
            timestep=at_zero,
            r_timestep=at_zero,
            encoder_hidden_states=cache.text,
            chunk_partition=[clean_block.shape[2]] * cache.num_blocks,
            kv_cache=self._cache_buffers(cache, clean_block),
            kv_cache_flag={"num_cached_chunks": cache.num_blocks - 1, "is_cache_step": True},
        )

    def _last_block(self, noisy: Latents, t: Tensor, text: Text, clean: Latents) -> Latents:
        """Return the velocity of the last block of `noisy`; `clean` is one block shorter.

        The network takes as many clean frames as full noisy ones. No query reads the last clean
        block, so the noisy one fills its place.
        """
        size = self.geometry.latent_frames_per_block
        num_chunks = noisy.shape[2] // size
        limit = int(cast(Any, self.config).full_chunk_limit)
        full = min(num_chunks, limit) * size
        past = torch.cat([clean, noisy[:, :, -size:]], dim=2)
        frames = torch.cat([past[:, :, :-full], noisy[:, :, -full:]], dim=2)
        times = self._times(t, noisy)
        times[:, :-full] = 0
        return self._run(
            like=noisy,
            hidden_states=frames,
            timestep=times,
            r_timestep=torch.zeros_like(times),
            encoder_hidden_states=text,
            chunk_partition=[size] * num_chunks,
            clean_hidden_states=past[:, :, -full:],
            clean_timestep=torch.zeros_like(times[:, -full:]),
        )[:, :, -size:]

    def _run(self, like: Latents | None, **given: Any) -> Latents:
        """Run one pass in the network's own order of axes and on its own device."""
        for name, value in given.items():
            if isinstance(value, Tensor):
                moved = value.to(self.device)
                given[name] = moved.movedim(1, 2) if moved.ndim == 5 else moved
        with autocast_to(self._precision, self.device):
            output = self(**given, return_dict=False)[0]
        return torch.empty(0) if like is None else output.movedim(1, 2).to(like)

    def _times(self, t: Tensor, like: Latents) -> Tensor:
        return (1000 * t[:, None]).expand(-1, like.shape[2]).clone()

    def _cache_buffers(self, cache: FarCache, like: Latents) -> dict[int, dict[str, Tensor]]:
        """Return the network's buffers of one rollout, allocated at the first call."""
        if not cache.layers:
            sizes, geometry = cast(Any, self.config), self.geometry
            dtype = torch.bfloat16 if self._precision == "bfloat16" else torch.float32
            for layer in range(sizes.num_layers):
                cache.layers[layer] = {
                    name: torch.zeros(
                        (
                            2,
                            len(like),
                            sizes.num_attention_heads,
                            num_blocks
                            * geometry.latent_frames_per_block
                            * (geometry.height // patch[1])
                            * (geometry.width // patch[2]),
                            sizes.attention_head_dim,
                        ),
                        device=self.device,
                        dtype=dtype,
                    )
                    for name, num_blocks, patch in (
                        ("full_cache", sizes.full_chunk_limit, sizes.patch_size),
                        ("compressed_cache", geometry.num_blocks, sizes.compressed_patch_size),
                    )
                }
        return cache.layers


def load_far(path: Path) -> AnyFlowFar:
    """Return the transformer of an AnyFlow-FAR folder in eval mode; raises CheckpointError."""
    with reading(path):
        config, tensors, source = read_folder(path, STOCK_CLASS)
    known: Mapping[str, Any] = {k: v for k, v in config.items() if not k.startswith("_")}
    with init_empty_weights(include_buffers=False):
        try:
            model = cast(AnyFlowFar, AnyFlowFar.from_config(dict(known)))
        except Exception as error:  # of whatever class: the sizes are the file's
            raise CheckpointError(f"{source}: not an AnyFlow-FAR: {error}") from error
    load_strictly(model, tensors, source, "it is another architecture, or only a part of one")
    return model.eval()
