"""Random tensors of which a process needs some rows only, drawn as if it needed them all.

A batch shared by ranks, or taken in slices, must see the noise that it sees as a whole: the draws
of a slice are the rows of the whole batch's draws. Everything that draws in training goes through
`normal` and `uniform`; with a plain generator they are torch.randn and torch.rand.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


class RowDraws(Generator):
    """A generator for the rows of a batch: set `take` before whatever draws for them."""

    _rows: Tensor | None = None
    _num_rows: int = 0

    @classmethod
    def at(cls, generator: Generator) -> "RowDraws":
        """A copy that draws from here on what `generator` would; several copies draw alike."""
        copy = cls()
        copy.set_state(generator.get_state())
        return copy

    def again(self) -> "RowDraws":
        """A copy for the same rows: what it draws is what this one would draw next."""
        copy = RowDraws.at(self)
        copy._rows, copy._num_rows = self._rows, self._num_rows
        return copy

    def take(self, rows: Tensor, num_rows: int) -> "RowDraws":
        """The next draws are for rows `rows` of `num_rows`; returns self."""
        self._rows, self._num_rows = rows, num_rows
        return self

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape for all rows of what is asked for in `shape`; raises ValueError for others."""
        if self._rows is None:
            return tuple(shape)
        if shape[0] != len(self._rows):
            raise ValueError(f"{shape[0]} rows are asked for: {len(self._rows)} were taken")
        return (self._num_rows, *shape[1:])

    def chosen(self, drawn: Tensor) -> Tensor:
        """The rows taken of what was drawn for all."""
        return drawn if self._rows is None else drawn[self._rows]


def normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """Standard normal numbers; the first axis is rows."""
    if isinstance(generator, RowDraws):
        return generator.chosen(torch.randn(generator.whole(shape), generator=generator))
    return torch.randn(tuple(shape), generator=generator)


def uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    """Uniform numbers of [0, 1); the first axis is rows."""
    if isinstance(generator, RowDraws):
        return generator.chosen(torch.rand(generator.whole(shape), generator=generator))
    return torch.rand(tuple(shape), generator=generator)
