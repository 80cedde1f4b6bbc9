"""Ranks of torch.distributed: several processes that compute one fit or one update.

Each rank draws what one process would draw and computes its rows of every batch. Gradients are
summed, each weighted by its share of the rows, so the result is that of one process up to the order
of sums: 2 and 3 ranks on tiny params differ by 7e-7 of a tensor's largest number after 5 steps of
fit, by 2e-4 after 4 of update (3e-6 absolute where learning has moved 1e-3: Adam divides by the
root of second moments, near zero for pixels of little weight). Rank 0 alone checks the store,
chooses the checkpoint, writes and publishes.

The launcher sets AFD_RANK, AFD_WORLD_SIZE and AFD_RENDEZVOUS (host:port of rank 0). A rank that
dies closes its connections: the others leave within seconds, as lost.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from afd.attempts import LostError
from afd.runtime.outcome import RefusedError

if TYPE_CHECKING:
    from torch import Tensor, nn

JOIN_TIMEOUT = timedelta(minutes=5)  # ranks start together, but imports from a cold disk take time
TIMEOUT = timedelta(minutes=30)  # the longest wait for rank 0: measuring, saving, publishing
BEGIN = -1  # rank 0 to the others: compute along; any other number is the exit code
FLOAT_BYTES = 4  # gradients of fewer bytes (bfloat16) are added up in float32
BUCKET_NUMEL = 1 << 24  # 64 MB of float32: gradients are copied once, a bucket at a time
Checkpoint = tuple[int, Mapping[str, "Tensor"], dict[str, Any]]  # a checkpoint: step, tensors, meta


@dataclass(frozen=True)
class Ranks:
    """One of `count` processes that compute one stage together."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """True for rank 0, which writes and publishes."""
        return self.index == 0

    def rows(self, num_rows: int) -> slice:
        """Return this rank's consecutive rows of a batch; raises RefusedError for too few rows."""
        if num_rows < self.count:
            raise RefusedError(
                f"a batch of {num_rows} cannot be shared by {self.count} ranks; give the stage "
                f"{num_rows} tasks at most, or a larger batch_size"
            )
        return slice(num_rows * self.index // self.count, num_rows * (self.index + 1) // self.count)

    def share(self, num_rows: int) -> float:
        """Return the weight of a mean over this rank's rows in the mean over the batch."""
        mine = self.rows(num_rows)
        return (mine.stop - mine.start) / num_rows

    def refuse_unequal(self, num_rows: int, field: str) -> None:
        """Raise RefusedError unless all ranks have the same number of rows.

        A sharded network is gathered in every pass: with one pass less on some rank the others
        would wait for ever.
        """
        if num_rows % self.count:
            raise RefusedError(
                f"{field} needs shares of one size: a batch of {num_rows} does not divide by "
                f"{self.count} ranks; give the stage other tasks, or change batch_size"
            )

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Guard computation that may wait for other ranks inside a sharded network.

        Raises LostError when one of them is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_lost_peer(error):
                raise
            raise _lost(self, error) from error

    def sum_gradients(self, parameters: Iterable["nn.Parameter"]) -> None:
        """Replace every gradient by its sum over the ranks."""
        if self.count == 1:
            return
        import torch

        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            flat = flat.float() if flat.element_size() < FLOAT_BYTES else flat
            self._add(flat)
            start = 0
            for gradient in bucket:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()

    def mean(self, metrics: Mapping[str, "Tensor"], num_rows: int) -> dict[str, float]:
        """Return means over the batch from means over this rank's rows; one NaN makes all NaN."""
        if self.count == 1:
            return {name: float(value) for name, value in metrics.items()}
        import torch

        own = torch.tensor([float(value) for value in metrics.values()], dtype=torch.float64)
        own = own * self.share(num_rows)
        self._add(own)
        return {name: float(value) for name, value in zip(metrics, own, strict=True)}

    def any(self, is_so: bool) -> bool:
        """Return True when `is_so` on some rank."""
        if self.count == 1:
            return is_so
        import torch

        votes = torch.tensor([int(is_so)])
        self._add(votes)
        return bool(votes.item())

    def from_first(self, tensor: "Tensor") -> "Tensor":
        """Return rank 0's tensor on every rank.

        Own results may differ in their last bits, and so would an order that follows from them.
        """
        return tensor if self.count == 1 else self._broadcast_tensor(tensor)

    def broadcast(self, number: int) -> None:
        """Send a number from rank 0 to all others, which `receive` it."""
        if self.count > 1:
            self._broadcast_int(number)

    def receive(self) -> int:
        """Wait for the number that rank 0 broadcasts, and return it."""
        return self._broadcast_int(0)

    def broadcast_checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """Return rank 0's checkpoint on every rank; the others need not reach its disk."""
        if self.count == 1:
            return checkpoint
        import torch

        header = b"null"
        if self.is_first and checkpoint is not None:
            step, tensors, meta = checkpoint
            shapes = {n: [str(t.dtype).split(".")[1], list(t.shape)] for n, t in tensors.items()}
            header = json.dumps([step, meta, shapes]).encode()
        encoded = torch.zeros(self._broadcast_int(len(header)), dtype=torch.uint8)
        if self.is_first:
            encoded = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        found = json.loads(self._broadcast_tensor(encoded).numpy().tobytes())
        if found is None:
            return None
        step, meta, shapes = found
        tensors = {
            name: self._broadcast_tensor(
                _empty(*shape) if checkpoint is None else checkpoint[1][name]
            )
            for name, shape in shapes.items()
        }
        return step, tensors, meta

    def _broadcast_int(self, number: int) -> int:
        import torch

        return int(self._broadcast_tensor(torch.tensor([number])).item())

    def _add(self, tensor: "Tensor") -> None:
        import torch.distributed as dist

        with _together(self):
            dist.all_reduce(tensor)

    def _broadcast_tensor(self, tensor: "Tensor") -> "Tensor":
        import torch.distributed as dist

        tensor = tensor.contiguous()
        with _together(self):
            dist.broadcast(tensor, src=0)
        return tensor


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the ranks that the environment names; without it, ALONE.

    Raises RefusedError for an incomplete environment, LostError when the ranks do not meet.
    """
    names = ("AFD_RANK", "AFD_WORLD_SIZE", "AFD_RENDEZVOUS")
    values = [os.environ.get(name) for name in names]
    if not any(values) or values[1] == "1":
        yield ALONE
        return
    rank, size, rendezvous = values
    if not (rank and size and rendezvous and rank.isdecimal() and size.isdecimal()):
        raise RefusedError(f"set all of {', '.join(names)} or none of them; they are {values}")
    import torch.distributed as dist
    from torch import cuda

    ranks = Ranks(int(rank), int(size))
    host, _, port = rendezvous.rpartition(":")
    with _together(ranks):
        meeting = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host, int(port), ranks.count, is_master=ranks.is_first, timeout=JOIN_TIMEOUT
        )
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda.is_available() else "gloo",
            store=meeting,
            rank=ranks.index,
            world_size=ranks.count,
            timeout=TIMEOUT,
        )
    try:
        yield ranks
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


@contextlib.contextmanager
def _together(ranks: Ranks) -> Iterator[None]:
    """Turn every error of communication into LostError: a process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(ranks, error) from error


def _lost(ranks: Ranks, error: RuntimeError) -> LostError:
    return LostError(
        f"rank {ranks.index} of {ranks.count} leaves: another rank is gone, its own log says "
        f"why ({str(error).splitlines()[0][:200]}); the last checkpoint is kept"
    )


def _is_lost_peer(error: RuntimeError) -> bool:
    """Return True for errors of Gloo (plain RuntimeErrors naming its file) and of NCCL."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _buckets(gradients: Sequence["Tensor"]) -> Iterator[list["Tensor"]]:
    """Yield neighbours of one dtype and device, up to BUCKET_NUMEL numbers together."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        is_full = bucket and (
            sum(g.numel() for g in bucket) + gradient.numel() > BUCKET_NUMEL
            or (bucket[0].dtype, bucket[0].device) != (gradient.dtype, gradient.device)
        )
        if is_full:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _empty(dtype: str, shape: list[int]) -> "Tensor":
    import torch

    return torch.empty(shape, dtype=getattr(torch, dtype))
