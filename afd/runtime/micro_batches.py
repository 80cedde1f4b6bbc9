"""Micro-batches: slices of a batch whose summed gradient is that of the whole batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from afd.config import MemoryParams
from afd.errors import InputError

Metrics = dict[str, Tensor]
LossOfRows = Callable[[Tensor, Generator, slice], tuple[Tensor, Metrics]]
"""(rows of the batch, draw, slice of them to compute) -> loss, metrics."""


class TooLargeError(InputError):
    """Batch that does not fit into memory; the message names the params that make it fit."""


@dataclass
class MicroBatch:
    """Number of rows in memory at once; halved once where params allow it."""

    size: int | None  # None: all rows of this rank
    may_halve: bool

    @classmethod
    def of(cls, memory: MemoryParams) -> "MicroBatch":
        return cls(memory.micro_batch, memory.may_halve)

    def halve(self, num_rows: int, error: BaseException) -> None:
        """Halve the size; raises TooLargeError that names the params to change."""
        size = min(self.size or num_rows, num_rows)
        if not self.may_halve or size == 1:
            raise TooLargeError(
                f"update: out of memory with {size} row(s) at once "
                f"({str(error).splitlines()[0][:160]}). Set update.memory.micro_batch to "
                f"{max(1, size // 2)} or update.memory.gradient_checkpointing to true, or give the "
                "stage more ranks: none of it changes what is computed, and the last checkpoint "
                "is kept"
            ) from error
        self.size, self.may_halve = (size + 1) // 2, False


def slices(rows: slice, size: int | None) -> Iterator[slice]:
    """Yield `rows` in slices of at most `size`."""
    step = size or rows.stop - rows.start
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))


def backward(
    loss: LossOfRows,
    batch: Tensor,
    draw: Generator,
    mine: slice,
    micro_batch: MicroBatch,
    zero_grad: Callable[[], None],
) -> Metrics:
    """Add the gradients of this rank's rows; return the means over them, the loss as `total`.

    Every slice draws for the whole batch, so slicing changes only the order of sums.
    """
    state = draw.get_state()
    while True:
        means: Metrics = {}
        try:
            for rows in slices(mine, micro_batch.size):
                draw.set_state(state)
                total, metrics = loss(batch, draw, rows)
                num_rows = rows.stop - rows.start
                (total * (num_rows / len(batch))).backward()
                weight = num_rows / (mine.stop - mine.start)
                for name, value in (metrics | {"total": total.detach()}).items():
                    means[name] = means[name] + weight * value if name in means else weight * value
            return means
        except torch.OutOfMemoryError as error:
            failed = error
        # outside of the handler: its traceback holds the graph that did not fit
        zero_grad()
        micro_batch.halve(mine.stop - mine.start, failed)
        del failed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
