"""Who attends to whom: the passes of a causal student, and the history that one rollout keeps.

A Reach gets the query, key and value of all tokens of a pass in one layer, laid out
[batch, heads, tokens, size], and gives their attention. Blocks here are pieces of a clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
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
class History:
    """Which earlier blocks a block sees: all, or the first `sink` and the last `recent` ones.

    An attention sink keeps the first blocks for ever (arXiv:2309.17453); without it a sliding
    window drifts as soon as they leave.
    """

    sink: int = 0
    recent: int | None = None  # blocks before the current one; None: all of them

    def before(self, block: int) -> list[tuple[int, int]]:
        """The visible blocks before `block`, as consecutive ranges."""
        if self.recent is None or block <= self.sink + self.recent:
            return [(0, block)]
        return [*([(0, self.sink)] if self.sink else []), (block - self.recent, block)]

    def up_to(self, block: int) -> list[tuple[int, int]]:
        """The visible blocks before `block`, and itself."""
        *far, (start, end) = self.before(block)
        return [*far, (start, end + 1)]


ALL = History()


@dataclass(frozen=True, slots=True)
class Context:
    """Clean blocks alone: block i sees the clean blocks before it and itself.

    Each layer's keys and values are kept for the pass over the noisy blocks, which then needs no
    gradient through them.
    """

    num_blocks: int  # clean ones; at least 1
    history: History = ALL
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict[int, tuple[Tensor, Tensor]])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.kept[layer] = (key, value)
        size = query.shape[2] // self.num_blocks
        queries = _split(query, [size] * self.num_blocks)
        return torch.cat(_attend_clean(queries, _Blocks(key, value, size), self.history), dim=2)


@dataclass(frozen=True, slots=True)
class AfterContext:
    """Noisy blocks alone: block i sees the kept clean blocks before it and itself."""

    num_blocks: int
    kept: dict[int, tuple[Tensor, Tensor]]
    history: History = ALL

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = query.shape[2] // self.num_blocks
        sizes = [size] * self.num_blocks
        clean = self.kept.get(layer, (key[:, :, :0], value[:, :, :0]))  # one block: no context
        own = zip(_split(query, sizes), _split(key, sizes), _split(value, sizes), strict=True)
        return torch.cat(_attend_noisy(list(own), _Blocks(*clean, size), self.history), dim=2)


@dataclass(frozen=True, slots=True)
class Parallel:
    """[clean blocks 0..n-2 | noisy blocks 0..n-1]: all blocks of a training pass at once.

    Clean block i sees clean blocks <= i, noisy block i sees clean blocks < i and itself. A loop of
    unmasked calls: only about 30 % of a dense mask is attended at 7 blocks, and at real size the
    mask alone would take 4.3 GB.
    """

    num_blocks: int
    history: History = ALL

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = query.shape[2] // (2 * self.num_blocks - 1)
        num_clean = (self.num_blocks - 1) * size
        # split, not slices: a slice's gradient is a zero-filled copy of the whole tensor, and in
        # small passes filling those cost as much as attending
        queries = _split(query, [size] * (2 * self.num_blocks - 1))
        clean_keys, *noisy_keys = _split(key, [num_clean] + [size] * self.num_blocks)
        clean_values, *noisy_values = _split(value, [num_clean] + [size] * self.num_blocks)
        noisy_queries = queries[self.num_blocks - 1 :]
        own = list(zip(noisy_queries, noisy_keys, noisy_values, strict=True))
        past = _Blocks(clean_keys, clean_values, size)
        outputs = _attend_clean(queries[: self.num_blocks - 1], past, self.history)
        outputs += _attend_noisy(own, past, self.history)
        return torch.cat(outputs, dim=2)


@dataclass(slots=True)
class KeyValueCache:
    """History of one rollout: static buffers per layer, of which `held` blocks are committed.

    Keys are kept after rotation, at their own absolute frame. A pass that is not committed leaves
    its keys behind the committed ones, where the next pass overwrites them. Where the history is a
    window, the buffers hold the sink, the recent blocks and the current one, however long the
    rollout is.
    """

    text: Tensor
    frames_per_block: int
    tokens_per_block: int
    max_blocks: int  # of the rollout
    history: History = ALL
    texts: list["TextContext"] = field(default_factory=list["TextContext"])  # a layer each
    keys: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    values: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    num_blocks: int = 0  # committed in all, some of them forgotten since

    @property
    def held(self) -> int:
        """Committed blocks that the next one sees."""
        if self.history.recent is None:
            return self.num_blocks
        return min(self.num_blocks, self.history.sink + self.history.recent)

    def room(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The buffers of a layer, made for keys like these the first time."""
        if layer not in self.keys:
            recent = self.history.recent
            window = self.max_blocks if recent is None else self.history.sink + recent + 1
            tokens = min(self.max_blocks, window) * self.tokens_per_block
            shape = (*key.shape[:2], tokens, key.shape[3])
            self.keys[layer], self.values[layer] = key.new_empty(shape), value.new_empty(shape)
        return self.keys[layer], self.values[layer]

    def committed(self) -> None:
        """The block behind the held ones stays; the oldest recent one goes when all are taken."""
        is_full = self.history.recent is not None and self.held == self.num_blocks_kept
        self.num_blocks += 1
        if is_full:
            first = self.history.sink * self.tokens_per_block
            end = self.num_blocks_kept * self.tokens_per_block
            for buffer in (*self.keys.values(), *self.values.values()):
                later = buffer[:, :, first + self.tokens_per_block : end + self.tokens_per_block]
                buffer[:, :, first:end] = later.clone()

    @property
    def num_blocks_kept(self) -> int:
        """How many blocks are held at most."""
        recent = self.history.recent
        return self.max_blocks if recent is None else self.history.sink + recent


@dataclass(slots=True)
class TextContext:
    """The prompt in one layer's cross-attention: embedded text [batch, text tokens, width].

    Its keys and values [batch, heads, text tokens, size] are projected inside the layer; with
    `is_kept` they stay for all passes of a rollout.
    """

    num_frames: int
    embedded: Tensor
    is_kept: bool = False
    key: Tensor | None = None
    value: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Cached:
    """The tokens of one block see the committed history and themselves."""

    cache: KeyValueCache

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        cache = self.cache
        if cache.num_blocks >= cache.max_blocks:
            raise ValueError(
                f"the cache holds {cache.max_blocks} blocks and all are committed: start a new one"
            )
        keys, values = cache.room(layer, key, value)
        start = cache.held * cache.tokens_per_block
        end = start + key.shape[2]
        if torch.is_grad_enabled():  # a buffer written in place cannot be differentiated through
            seen_keys = torch.cat([keys[:, :, :start], key], dim=2)
            seen_values = torch.cat([values[:, :, :start], value], dim=2)
        else:
            keys[:, :, start:end] = key
            values[:, :, start:end] = value
            seen_keys, seen_values = keys[:, :, :end], values[:, :, :end]
        return scaled_dot_product_attention(query, seen_keys, seen_values)


class _Blocks:
    """Keys and values of clean blocks, each range of them sliced once.

    Two slices of one range would each send a zero-filled gradient of the whole tensor back.
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
        seen_keys = torch.cat([*keys, key], dim=2)
        seen_values = torch.cat([*values, value], dim=2)
        outputs.append(scaled_dot_product_attention(query, seen_keys, seen_values))
    return outputs


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=2)


def _split(states: Tensor, sizes: list[int]) -> list[Tensor]:
    """Pieces of these sizes along the tokens."""
    return list(torch.split(states, sizes, dim=2))
