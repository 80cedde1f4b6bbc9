"""Random draws for some rows of a batch, equal to those of the whole batch.

Ranks and micro-batches get the noise that one process would draw: the draws of a slice are the rows
of the whole batch's draws. All draws in training go through `normal` and `uniform`; with a plain
generator they are torch.randn and torch.rand.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


class RowDraws(Generator):
    """Generator for some rows of a batch: call `select` before each draw."""

    _rows: Tensor | None = None
    _num_rows: int = 0

    @classmethod
    def at(cls, generator: Generator) -> "RowDraws":
        """Return a copy of `generator` in its present state; several copies draw alike."""
        copy = cls()
        copy.set_state(generator.get_state())
        return copy

    def copy(self) -> "RowDraws":
        """Return a generator of the same rows and state: both draw the same next."""
        copy = RowDraws.at(self)
        copy._rows, copy._num_rows = self._rows, self._num_rows
        return copy

    def select(self, rows: Tensor, num_rows: int) -> "RowDraws":
        """Draw for rows `rows` of `num_rows` from now on; return self."""
        self._rows, self._num_rows = rows, num_rows
        return self

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return `shape` with the batch's number of rows; raises ValueError for other rows."""
        if self._rows is None:
            return tuple(shape)
        if shape[0] != len(self._rows):
            raise ValueError(f"{shape[0]} rows are asked for: {len(self._rows)} were selected")
        return (self._num_rows, *shape[1:])

    def chosen(self, drawn: Tensor) -> Tensor:
        """Return the selected rows of a draw for the whole batch."""
        return drawn if self._rows is None else drawn[self._rows]


def normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """Return standard normal numbers; the first axis is rows."""
    if isinstance(generator, RowDraws):
        return generator.chosen(torch.randn(generator.whole(shape), generator=generator))
    return torch.randn(tuple(shape), generator=generator)


def uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    """Return uniform numbers of [0, 1); the first axis is rows."""
    if isinstance(generator, RowDraws):
        return generator.chosen(torch.rand(generator.whole(shape), generator=generator))
    return torch.rand(tuple(shape), generator=generator)
