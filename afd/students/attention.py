"""Attention processors of the block-causal Wan, and their context objects.

Wan's block passes `rotary_emb` to self-attention and `encoder_hidden_states` to cross-attention
untouched, so both carry a small context object here. Nothing is stored on modules, so gradient
checkpointing, FSDP and compilation work. Heads are laid out [batch, heads, tokens, size].
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from afd.students.attention_pattern import AttentionPattern
from afd.students.key_value_cache import TextContext


@dataclass(frozen=True, slots=True)
class SelfContext:
    """Inputs of one layer's self-attention beside its tokens."""

    layer: int
    num_frames: int
    rotation: Tensor
    pattern: AttentionPattern


class SelfProcessor:
    """Wan's self-attention for frames folded into the batch; `rotary_emb` is a SelfContext."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: None,
        attention_mask: None,
        rotary_emb: SelfContext,
    ) -> Tensor:
        hidden = _unfold(hidden_states, rotary_emb.num_frames)
        query = rotated(attn.norm_q(attn.to_q(hidden)), attn.heads, rotary_emb.rotation)
        key = rotated(attn.norm_k(attn.to_k(hidden)), attn.heads, rotary_emb.rotation)
        value = _heads(attn.to_v(hidden), attn.heads)
        # Autocast on CUDA leaves a norm in float32: keys would take twice the bytes in the cache.
        # The order of these calls is the order in which the three gradients are summed.
        output = _attended(rotary_emb, query.type_as(value), key.type_as(value), value)  # pyright: ignore[reportCallIssue]
        return _project_out(attn, output, hidden_states)


class CrossProcessor:
    """Wan's cross-attention to the prompt; `encoder_hidden_states` is a TextContext."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: TextContext,
        attention_mask: None,
        rotary_emb: None,
    ) -> Tensor:
        context = encoder_hidden_states
        hidden = _unfold(hidden_states, context.num_frames)
        key, value = _text_keys(attn, context)  # pyright: ignore[reportCallIssue]
        query = _heads(attn.norm_q(attn.to_q(hidden)), attn.heads).type_as(value)
        output = scaled_dot_product_attention(query, key, value)
        return _project_out(attn, output, hidden_states)


# A compiled block is one graph for all layers, blocks and passes. Their differences (the layer, the
# length of the history, a cached prompt) stay outside of the graph, which would otherwise be
# compiled anew for each. Attention is a fused kernel either way.
@torch.compiler.disable
def _attended(context: SelfContext, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return context.pattern.attend(context.layer, query, key, value)


@torch.compiler.disable
def _text_keys(attn: WanAttention, context: TextContext) -> tuple[Tensor, Tensor]:
    """Return the prompt's keys and values in this layer."""
    if context.key is not None and context.value is not None:
        return context.key, context.value
    key = _heads(attn.norm_k(attn.to_k(context.embedded)), attn.heads)
    value = _heads(attn.to_v(context.embedded), attn.heads)
    key = key.type_as(value)
    if context.is_cached:
        context.key, context.value = key, value
    return key, value


@lru_cache(maxsize=16)  # a block's passes share one; those of a training pass take 31 MB at 480p
def rotations(
    positions: tuple[int, ...], grid: tuple[int, int], head_size: int, device: torch.device
) -> Tensor:
    """Return Wan's three-axis rotary angles as unit complex numbers.

    Their shape is [frames * patches, head_size / 2]; `grid` is the rows and columns of patches in a
    frame. Frames are explicit, so clean and noisy copies of a frame turn alike and a cached block
    starts at its own frame. Angles are float64: Wan's own buffers follow .to(bfloat16) and lose the
    angle. Rows and columns get 2 * (head_size // 6) channels each, frames the rest.
    """
    plane = 2 * (head_size // 6)
    rows, columns = grid
    frame = torch.tensor(positions, dtype=torch.float64, device=device)
    row = torch.arange(rows, dtype=torch.float64, device=device)
    column = torch.arange(columns, dtype=torch.float64, device=device)
    shape = (len(positions), rows, columns)
    angles = torch.cat(
        [
            _angles(frame, head_size - 2 * plane)[:, None, None].expand(*shape, -1),
            _angles(row, plane)[None, :, None].expand(*shape, -1),
            _angles(column, plane)[None, None, :].expand(*shape, -1),
        ],
        dim=-1,
    ).flatten(0, 2)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def rotated(states: Tensor, heads: int, rotation: Tensor) -> Tensor:
    """Split [batch, tokens, width] into heads and turn each pair of channels by its angle."""
    batch, tokens, _ = states.shape
    pairs = states.float().reshape(batch, tokens, heads, -1, 2)
    turned = torch.view_as_complex(pairs) * rotation[:, None]
    return torch.view_as_real(turned).flatten(3).type_as(states).transpose(1, 2)


def _angles(position: Tensor, size: int) -> Tensor:
    exponent = torch.arange(0, size, 2, dtype=torch.float64, device=position.device) / size
    return position[:, None] / 10000.0**exponent


def _heads(states: Tensor, heads: int) -> Tensor:
    batch, tokens, _ = states.shape
    return states.reshape(batch, tokens, heads, -1).transpose(1, 2)


def _unfold(states: Tensor, num_frames: int) -> Tensor:
    """[batch * frames, patches, width] -> [batch, frames * patches, width]."""
    return states.reshape(states.shape[0] // num_frames, -1, states.shape[2])


def _project_out(attn: WanAttention, output: Tensor, like: Tensor) -> Tensor:
    """Merge heads, project, and fold frames back into the batch."""
    merged = output.transpose(1, 2).flatten(2).type_as(like)
    return attn.to_out[1](attn.to_out[0](merged)).reshape(like.shape)
