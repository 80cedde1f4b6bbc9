"""A batch in slices: the gradient of the whole, and what happens when memory runs out."""

import pytest
import torch
from torch import Generator, Tensor, nn

from afd.config import MemoryParams
from afd.runtime.micro_batches import MicroBatch, TooLargeError, backward, slices

MEMORY = torch.linspace(1, 2, 12).reshape(6, 2)


def problem(fits: int) -> tuple[nn.Linear, list[int], object]:
    """A loss that draws for the whole batch and runs out of memory above `fits` rows."""
    model, seen = nn.Linear(2, 1), []
    with torch.no_grad():
        model.weight.fill_(0.5)
        model.bias.fill_(0.1)

    def loss(batch: Tensor, draw: Generator, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        noise = torch.randn(len(batch), 2, generator=draw)[rows]
        seen.append(rows.stop - rows.start)
        if seen[-1] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        error = model(MEMORY[batch[rows]] + noise).square().mean()
        return error, {"error": error.detach()}

    return model, seen, loss


def gradient(micro_batch: MicroBatch, fits: int = 6) -> tuple[Tensor, float, list[int]]:
    model, seen, loss = problem(fits)
    draw = Generator().manual_seed(0)
    told = backward(loss, torch.arange(6), draw, slice(0, 6), micro_batch, model.zero_grad)
    return model.weight.grad.clone(), float(told["error"]), seen


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 100])
def test_slices_change_the_order_of_sums_alone(size: int) -> None:
    whole, error, _ = gradient(MicroBatch(None, False))
    found, told, seen = gradient(MicroBatch(size, False))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)
    assert told == pytest.approx(error, rel=1e-5) and sum(seen) == 6 and max(seen) <= size


def test_ranks_cut_their_own_rows() -> None:
    assert list(slices(slice(3, 8), 2)) == [slice(3, 5), slice(5, 7), slice(7, 8)]
    assert list(slices(slice(3, 8), None)) == [slice(3, 8)]


def test_memory_that_runs_out_halves_the_slices_once_at_the_same_batch() -> None:
    whole, error, _ = gradient(MicroBatch(None, False))
    micro_batch = MicroBatch.of(MemoryParams(may_halve=True))
    found, told, seen = gradient(micro_batch, fits=3)
    assert seen == [6, 3, 3] and micro_batch.size == 3
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)
    assert told == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("memory", "knob"), [(MemoryParams(), 3), (MemoryParams(micro_batch=4), 2)]
)
def test_without_permission_the_knobs_are_named(memory: MemoryParams, knob: int) -> None:
    with pytest.raises(TooLargeError, match=rf"update\.memory\.micro_batch to {knob} or .*check"):
        gradient(MicroBatch.of(memory), fits=1)


def test_it_halves_once_and_no_further() -> None:
    with pytest.raises(TooLargeError, match=r"out of memory with 3 row"):
        gradient(MicroBatch.of(MemoryParams(may_halve=True)), fits=1)
