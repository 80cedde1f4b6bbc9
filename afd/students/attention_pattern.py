"""Attention patterns of a block-causal student's passes.

A pattern takes query, key and value of all tokens of a pass in one layer, laid out
[batch, heads, tokens, size], and returns their attention. Blocks here are pieces of a clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

KeysAndValues: TypeAlias = dict[int, tuple[Tensor, Tensor]]  # by layer


class AttentionPattern(Protocol):
    """The keys that each query of one layer attends to."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the attention output of all tokens of this pass, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class Bidirectional:
    """Every token attends to every token: stock Wan."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value)


@dataclass(frozen=True, slots=True)
class History:
    """The visible earlier blocks: all, or the first `sink` and the last `recent` ones.

    An attention sink holds the first blocks for the whole clip (arXiv:2309.17453); without it a
    sliding window drifts as soon as they leave.
    """

    sink: int = 0
    recent: int | None = None  # blocks before the current one; None: all of them

    def before(self, block: int) -> list[tuple[int, int]]:
        """Return the visible blocks before `block`, as consecutive ranges."""
        if self.recent is None or block <= self.sink + self.recent:
            return [(0, block)]
        return [*([(0, self.sink)] if self.sink else []), (block - self.recent, block)]

    def up_to(self, block: int) -> list[tuple[int, int]]:
        """Return the visible blocks before `block`, and itself."""
        *far, (start, end) = self.before(block)
        return [*far, (start, end + 1)]


ALL = History()


@dataclass(frozen=True, slots=True)
class Context:
    """Clean blocks alone: block i attends to the clean blocks before it and to itself.

    Each layer's keys and values are stored for the pass over the noisy blocks, which then needs no
    gradient through them.
    """

    num_blocks: int  # clean ones; at least 1
    history: History = ALL
    stored: KeysAndValues = field(default_factory=dict[int, tuple[Tensor, Tensor]])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.stored[layer] = (key, value)
        size = query.shape[2] // self.num_blocks
        queries = _split(query, [size] * self.num_blocks)
        return torch.cat(_attend_clean(queries, _Blocks(key, value, size), self.history), dim=2)


@dataclass(frozen=True, slots=True)
class AfterContext:
    """Noisy blocks alone: block i attends to the stored clean blocks before it and to itself."""

    num_blocks: int
    stored: KeysAndValues
    history: History = ALL

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = query.shape[2] // self.num_blocks
        sizes = [size] * self.num_blocks
        clean = self.stored.get(layer, (key[:, :, :0], value[:, :, :0]))  # one block: no context
        own = zip(_split(query, sizes), _split(key, sizes), _split(value, sizes), strict=True)
        return torch.cat(_attend_noisy(list(own), _Blocks(*clean, size), self.history), dim=2)


@dataclass(frozen=True, slots=True)
class Parallel:
    """[clean blocks 0..n-2 | noisy blocks 0..n-1]: all blocks of a training pass at once.

    Clean block i attends to clean blocks <= i, noisy block i to clean blocks < i and to itself. The
    calls are a loop without masks: only about 30 % of a dense mask is attended at 7 blocks, and at
    real size the mask alone would take 4.3 GB.
    """

    num_blocks: int
    history: History = ALL

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = query.shape[2] // (2 * self.num_blocks - 1)
        num_clean = (self.num_blocks - 1) * size
        # Split instead of slices: a slice's gradient is a zero-filled copy of the whole tensor, and
        # in small passes filling those took as long as the attention.
        queries = _split(query, [size] * (2 * self.num_blocks - 1))
        clean_keys, *noisy_keys = _split(key, [num_clean] + [size] * self.num_blocks)
        clean_values, *noisy_values = _split(value, [num_clean] + [size] * self.num_blocks)
        noisy_queries = queries[self.num_blocks - 1 :]
        own = list(zip(noisy_queries, noisy_keys, noisy_values, strict=True))
        past = _Blocks(clean_keys, clean_values, size)
        outputs = _attend_clean(queries[: self.num_blocks - 1], past, self.history)
        outputs += _attend_noisy(own, past, self.history)
        return torch.cat(outputs, dim=2)


class _Blocks:
    """Keys and values of clean blocks; each range of them is sliced once.

    Each further slice of a range would send back its own zero-filled gradient of the whole tensor.
    """

    def __init__(self, key: Tensor, value: Tensor, size: int) -> None:
        self.whole = (key, value)
        self.size = size  # tokens of a block
        self.parts: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __getitem__(self, blocks: tuple[int, int]) -> tuple[Tensor, Tensor]:
        if blocks not in self.parts:
            start, end = blocks[0] * self.size, blocks[1] * self.size
            key, value = self.whole
            self.parts[blocks] = (key[:, :, start:end], value[:, :, start:end])
        return self.parts[blocks]


def _attend_clean(queries: Sequence[Tensor], past: _Blocks, history: History) -> list[Tensor]:
    outputs: list[Tensor] = []
    for block, query in enumerate(queries):
        keys, values = zip(*[past[part] for part in history.up_to(block)], strict=True)
        outputs.append(scaled_dot_product_attention(query, _joined(keys), _joined(values)))
    return outputs


def _attend_noisy(
    own: Sequence[tuple[Tensor, Tensor, Tensor]], past: _Blocks, history: History
) -> list[Tensor]:
    outputs: list[Tensor] = []
    for block, (query, key, value) in enumerate(own):
        keys, values = zip(*[past[part] for part in history.before(block)], strict=True)
        visible_keys = torch.cat([*keys, key], dim=2)
        visible_values = torch.cat([*values, value], dim=2)
        outputs.append(scaled_dot_product_attention(query, visible_keys, visible_values))
    return outputs


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=2)


def _split(states: Tensor, sizes: list[int]) -> list[Tensor]:
    """Split along the tokens into pieces of these sizes."""
    return list(torch.split(states, sizes, dim=2))
