"""fit and update as several processes that compute one result: ranks of torch.distributed.

Each rank draws what one process would draw and takes its rows of every batch; gradients are summed,
each weighted by its share of the rows, so the result is that of one process up to the order of
sums: 2 and 3 ranks on tiny params differ by 7e-7 of a tensor's largest number after 5 steps of fit,
by 2e-4 after 4 of update (3e-6 absolute where learning has moved 1e-3: Adam divides by the root of
second moments, near nothing for pixels that hardly count). Rank 0 alone decides (is there something
to do, where to go on), writes and publishes.

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
BEGIN = -1  # rank 0 to the others: compute along; any other number is the code to leave with
SHARED_STAGES = ("fit", "update")
FLOAT_BYTES = 4  # gradients of fewer bytes (bfloat16) are added up in float32
BUCKET_NUMEL = 1 << 24  # 64 MB of float32: gradients are copied once, a bucket at a time
Kept = tuple[int, Mapping[str, "Tensor"], dict[str, Any]]  # a checkpoint: step, tensors, meta


@dataclass(frozen=True)
class Ranks:
    """One of `count` processes that compute one stage together."""

    index: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def rows(self, num_rows: int) -> slice:
        """This rank's rows of a batch, consecutive; raises RefusedError when there are too few."""
        if num_rows < self.count:
            raise RefusedError(
                f"a batch of {num_rows} cannot be shared by {self.count} ranks; give the stage "
                f"{num_rows} tasks at most, or a larger batch_size"
            )
        return slice(num_rows * self.index // self.count, num_rows * (self.index + 1) // self.count)

    def share(self, num_rows: int) -> float:
        """What a mean over this rank's rows weighs in the mean over the batch."""
        mine = self.rows(num_rows)
        return (mine.stop - mine.start) / num_rows

    def refuse_unequal(self, num_rows: int, field: str) -> None:
        """Raise RefusedError unless all ranks have as many rows: then they make the same passes.

        A sharded network is gathered in every pass, so a rank that made one less would leave the
        others waiting.
        """
        if num_rows % self.count:
            raise RefusedError(
                f"{field} needs shares of one size: a batch of {num_rows} does not divide by "
                f"{self.count} ranks; give the stage other tasks, or change batch_size"
            )

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """A passage that may wait for other ranks inside of a network, where it is sharded.

        Raises LostError when one of them is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or isinstance(error, LostError) or not _tells_of_a_loss(error):
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
        """Means over this rank's rows -> means over the batch; NaN of one is NaN of all."""
        if self.count == 1:
            return {name: float(value) for name, value in metrics.items()}
        import torch

        own = torch.tensor([float(value) for value in metrics.values()], dtype=torch.float64)
        own = own * self.share(num_rows)
        self._add(own)
        return {name: float(value) for name, value in zip(metrics, own, strict=True)}

    def any(self, is_so: bool) -> bool:
        """Whether it is so on some rank."""
        if self.count == 1:
            return is_so
        import torch

        votes = torch.tensor([int(is_so)])
        self._add(votes)
        return bool(votes.item())

    def agreed(self, tensor: "Tensor") -> "Tensor":
        """Rank 0's tensor on every rank: what each computes alone may differ in its last bits, and
        an order that follows from it would then not be the same everywhere."""
        return tensor if self.count == 1 else self._first(tensor)

    def say(self, number: int) -> None:
        """Rank 0 tells all others a number; they `hear` it."""
        if self.count > 1:
            self._told(number)

    def hear(self) -> int:
        """The number that rank 0 says, waited for."""
        return self._told(0)

    def shared(self, kept: Kept | None) -> Kept | None:
        """Rank 0's checkpoint on every rank, whatever the others see of its disk."""
        if self.count == 1:
            return kept
        import torch

        header = b"null"
        if self.is_first and kept is not None:
            step, tensors, meta = kept
            shapes = {n: [str(t.dtype).split(".")[1], list(t.shape)] for n, t in tensors.items()}
            header = json.dumps([step, meta, shapes]).encode()
        told = torch.zeros(self._told(len(header)), dtype=torch.uint8)
        if self.is_first:
            told = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        found = json.loads(self._first(told).numpy().tobytes())
        if found is None:
            return None
        step, meta, shapes = found
        tensors = {
            name: self._first(_empty(*shape) if kept is None else kept[1][name])
            for name, shape in shapes.items()
        }
        return step, tensors, meta

    def _told(self, number: int) -> int:
        import torch

        return int(self._first(torch.tensor([number])).item())

    def _add(self, tensor: "Tensor") -> None:
        import torch.distributed as dist

        with _together(self):
            dist.all_reduce(tensor)

    def _first(self, tensor: "Tensor") -> "Tensor":
        import torch.distributed as dist

        tensor = tensor.contiguous()
        with _together(self):
            dist.broadcast(tensor, src=0)
        return tensor


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """This process among its ranks, as the environment says; alone without it.

    Raises RefusedError for an environment that says half, LostError when they do not meet.
    """
    names = ("AFD_RANK", "AFD_WORLD_SIZE", "AFD_RENDEZVOUS")
    said = [os.environ.get(name) for name in names]
    if not any(said) or said[1] == "1":
        yield ALONE
        return
    rank, size, rendezvous = said
    if not (rank and size and rendezvous and rank.isdecimal() and size.isdecimal()):
        raise RefusedError(f"set all of {', '.join(names)} or none of them; they are {said}")
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
    """Whatever goes wrong between processes means that one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(ranks, error) from error


def _lost(ranks: Ranks, error: RuntimeError) -> LostError:
    return LostError(
        f"rank {ranks.index} of {ranks.count} leaves: another rank is gone, its own log says "
        f"why ({str(error).splitlines()[0][:200]}); the last checkpoint is kept"
    )


def _tells_of_a_loss(error: RuntimeError) -> bool:
    """Gloo raises plain RuntimeErrors that name its source file, NCCL has a class of its own."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _buckets(gradients: Sequence["Tensor"]) -> Iterator[list["Tensor"]]:
    """Neighbours of one type and place, up to BUCKET_NUMEL numbers together."""
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
