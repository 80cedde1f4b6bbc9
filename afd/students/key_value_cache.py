"""Key-value cache of one rollout, and the attention of one block over it.

Tensors are laid out [batch, heads, tokens, size]. Blocks here are pieces of a clip.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from afd.students.attention_pattern import ALL, History


@dataclass(slots=True)
class TextContext:
    """The prompt in one layer's cross-attention: embedded text [batch, text tokens, width].

    The layer projects its keys and values [batch, heads, text tokens, size]; with `is_cached` they
    stay for all passes of a rollout.
    """

    num_frames: int
    embedded: Tensor
    is_cached: bool = False
    key: Tensor | None = None
    value: Tensor | None = None


@dataclass(slots=True)
class KeyValueCache:
    """History of one rollout: static buffers per layer, with `num_visible` committed blocks.

    Keys are stored after rotation, at their own absolute frame. A pass that is not committed leaves
    its keys behind the committed ones, and the next pass overwrites them. With a window as history
    the buffers hold the sink, the recent blocks and the current one, at any length of the rollout.
    """

    text: Tensor
    frames_per_block: int
    tokens_per_block: int
    max_blocks: int  # of the rollout
    history: History = ALL
    texts: list[TextContext] = field(default_factory=list[TextContext])  # a layer each
    keys: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    values: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    num_blocks: int = 0  # committed in all; a window has dropped some of them

    @property
    def num_visible(self) -> int:
        """Committed blocks that the next one attends to."""
        if self.history.recent is None:
            return self.num_blocks
        return min(self.num_blocks, self.history.sink + self.history.recent)

    def buffers(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the buffers of a layer, allocated for keys like these at the first call."""
        if layer not in self.keys:
            recent = self.history.recent
            window = self.max_blocks if recent is None else self.history.sink + recent + 1
            tokens = min(self.max_blocks, window) * self.tokens_per_block
            shape = (*key.shape[:2], tokens, key.shape[3])
            self.keys[layer], self.values[layer] = key.new_empty(shape), value.new_empty(shape)
        return self.keys[layer], self.values[layer]

    def advance(self) -> None:
        """Commit the block behind the visible ones; a full window drops its oldest recent block."""
        is_full = self.history.recent is not None and self.num_visible == self.capacity
        self.num_blocks += 1
        if is_full:
            first = self.history.sink * self.tokens_per_block
            end = self.capacity * self.tokens_per_block
            for buffer in (*self.keys.values(), *self.values.values()):
                later = buffer[:, :, first + self.tokens_per_block : end + self.tokens_per_block]
                buffer[:, :, first:end] = later.clone()

    @property
    def capacity(self) -> int:
        """Largest number of visible blocks."""
        recent = self.history.recent
        return self.max_blocks if recent is None else self.history.sink + recent


@dataclass(frozen=True, slots=True)
class Cached:
    """The tokens of one block attend to the committed history and to each other."""

    cache: KeyValueCache

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        cache = self.cache
        if cache.num_blocks >= cache.max_blocks:
            raise ValueError(
                f"the cache holds {cache.max_blocks} blocks and all are committed: start a new one"
            )
        keys, values = cache.buffers(layer, key, value)
        start = cache.num_visible * cache.tokens_per_block
        end = start + key.shape[2]
        if torch.is_grad_enabled():  # a buffer written in place cannot be differentiated through
            visible_keys = torch.cat([keys[:, :, :start], key], dim=2)
            visible_values = torch.cat([values[:, :, :start], value], dim=2)
        else:
            keys[:, :, start:end] = key
            values[:, :, start:end] = value
            visible_keys, visible_values = keys[:, :, :end], values[:, :, :end]
        return scaled_dot_product_attention(query, visible_keys, visible_values)
