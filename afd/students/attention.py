"""Who attends to whom: the two attention processors of the causal Wan student and their contexts.

Wan's block hands `rotary_emb` to self-attention and `encoder_hidden_states` to cross-attention
untouched, so both carry a small context object here. Nothing is stored on modules: gradient
checkpointing, FSDP and compilation keep working. Heads are laid out [batch, heads, tokens, size].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Reach(Protocol):
    """Which keys each query of one layer sees."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention output for all tokens of this pass, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class Bidirectional:
    """Every token sees every token: stock Wan."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value)


@dataclass(frozen=True, slots=True)
class Parallel:
    """[clean blocks 0..n-2 | noisy blocks 0..n-1]: all blocks of a training pass at once.

    Clean block i sees clean blocks <= i, noisy block i sees clean blocks < i and itself. A loop of
    unmasked calls: only about 30 % of a dense mask is attended at 7 blocks, and at real size the
    mask alone would take 4.3 GB.
    """

    num_blocks: int

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = query.shape[2] // (2 * self.num_blocks - 1)
        num_clean = (self.num_blocks - 1) * size
        # split, not slices: a slice's gradient is a zero-filled copy of the whole tensor, and in
        # small passes filling those cost as much as attending
        queries = _split(query, [size] * (2 * self.num_blocks - 1))
        clean_keys, *noisy_keys = _split(key, [num_clean] + [size] * self.num_blocks)
        clean_values, *noisy_values = _split(value, [num_clean] + [size] * self.num_blocks)
        past: list[tuple[Tensor, Tensor]] = [
            (clean_keys[:, :, :seen], clean_values[:, :, :seen])
            for seen in range(0, num_clean + 1, size)
        ]
        outputs = [
            scaled_dot_product_attention(queries[block], *past[block + 1])
            for block in range(self.num_blocks - 1)
        ]
        for block in range(self.num_blocks):
            keys = torch.cat([past[block][0], noisy_keys[block]], dim=2)
            values = torch.cat([past[block][1], noisy_values[block]], dim=2)
            own = queries[self.num_blocks - 1 + block]
            outputs.append(scaled_dot_product_attention(own, keys, values))
        return torch.cat(outputs, dim=2)


@dataclass(frozen=True, slots=True)
class TextContext:
    """The prompt's keys and values in one layer, [batch, heads, text tokens, size].

    Given as embedded text, they are projected inside the layer (training); given as keys and
    values, they were projected once for a whole rollout.
    """

    num_frames: int
    embedded: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None


@dataclass(slots=True)
class KeyValueCache:
    """History of one rollout: static buffers per layer, of which `num_blocks` blocks are committed.

    Keys are kept after rotation, at their own absolute frame. A pass that is not committed leaves
    its keys behind the committed ones, where the next pass overwrites them.
    """

    texts: list[TextContext]
    keys: list[Tensor]
    values: list[Tensor]
    frames_per_block: int
    tokens_per_block: int
    num_blocks: int = 0

    @property
    def num_tokens(self) -> int:
        return self.num_blocks * self.tokens_per_block


@dataclass(frozen=True, slots=True)
class Cached:
    """The tokens of one block see the committed history and themselves."""

    cache: KeyValueCache

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        start = self.cache.num_tokens
        end = start + key.shape[2]
        if end > keys.shape[2]:
            raise ValueError(
                f"the cache holds {keys.shape[2]} tokens and all are committed: start a new one"
            )
        if torch.is_grad_enabled():  # a buffer written in place cannot be differentiated through
            seen_keys = torch.cat([keys[:, :, :start], key], dim=2)
            seen_values = torch.cat([values[:, :, :start], value], dim=2)
        else:
            keys[:, :, start:end] = key
            values[:, :, start:end] = value
            seen_keys, seen_values = keys[:, :, :end], values[:, :, :end]
        return scaled_dot_product_attention(query, seen_keys, seen_values)


@dataclass(frozen=True, slots=True)
class SelfContext:
    """What one layer's self-attention needs beside its tokens."""

    layer: int
    num_frames: int
    rotation: Tensor
    reach: Reach


class SelfProcessor:
    """Wan's self-attention over frames folded into the batch; `rotary_emb` is a SelfContext."""

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
        output = rotary_emb.reach.attend(rotary_emb.layer, query, key, value)
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
        hidden = _unfold(hidden_states, encoder_hidden_states.num_frames)
        key, value = encoder_hidden_states.key, encoder_hidden_states.value
        if key is None or value is None:
            embedded = cast(Tensor, encoder_hidden_states.embedded)
            key, value = text_keys_and_values(attn, embedded)
        query = _heads(attn.norm_q(attn.to_q(hidden)), attn.heads)
        output = scaled_dot_product_attention(query, key, value)
        return _project_out(attn, output, hidden_states)


def text_keys_and_values(attn: WanAttention, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Embedded text [batch, tokens, width] -> keys and values of one cross-attention."""
    key = _heads(attn.norm_k(attn.to_k(embedded)), attn.heads)
    return key, _heads(attn.to_v(embedded), attn.heads)


def rotations(
    positions: Sequence[int], grid: tuple[int, int], head_size: int, device: torch.device
) -> Tensor:
    """Wan's three-axis rotary angles as unit complex numbers, [frames * patches, head_size / 2].

    `grid` is the rows and columns of patches in a frame. Frames are explicit, so clean and noisy
    copies of a frame turn alike and a cached block starts at its own frame. Built in float64: Wan's
    own buffers follow .to(bfloat16) and lose the angle. Rows and columns get 2 * (head_size // 6)
    channels each, frames the rest.
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


def _split(states: Tensor, sizes: list[int]) -> list[Tensor]:
    """Pieces of these sizes along the tokens."""
    return list(torch.split(states, sizes, dim=2))


def _unfold(states: Tensor, num_frames: int) -> Tensor:
    """[batch * frames, patches, width] -> [batch, frames * patches, width]."""
    return states.reshape(states.shape[0] // num_frames, -1, states.shape[2])


def _project_out(attn: WanAttention, output: Tensor, like: Tensor) -> Tensor:
    """Merge heads, project, and fold frames back into the batch."""
    merged = output.transpose(1, 2).flatten(2).type_as(like)
    return attn.to_out[1](attn.to_out[0](merged)).reshape(like.shape)
