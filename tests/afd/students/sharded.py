"""One rank of an FSDP2 test: python -m tests.afd.students.sharded RANK WORLD PORT FILE.

Each rank computes its rows of a batch; rank 0 writes gradients and a rollout in full. With a world
of 1 nothing is sharded: that is the reference.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Generator, Tensor

from afd.config import LoraParams
from afd.flow.solver import rollout
from afd.flow.times import step_list
from afd.runtime.ranks import Ranks
from afd.students import lora
from afd.students.causal_wan import RunOptions
from afd.students.sharding import shard_frozen_weights
from tests.afd.students.test_original import CASES, given, pair


def computed(rank: int, world: int) -> dict[str, Tensor]:
    """Gradients of a LoRA, a rollout, and how many frozen numbers this rank holds."""
    _, student = pair(CASES[0], RunOptions(context_gradient=False))
    params = LoraParams(rank=3, alpha=5.0, targets="all")
    lora.add_adapter(student, "student", params, Generator().manual_seed(1))
    for name, weight in student.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=Generator().manual_seed(2))
    lora.activate(student, "student", trains=True)
    student.train().enable_gradient_checkpointing()
    if world > 1:
        shard_frozen_weights(student)
    noisy, clean, text, timestep = given(CASES[0])
    rows = slice(rank, rank + 1) if world > 1 else slice(None)
    t = timestep[rows, ::3] / 1000
    student.velocity(noisy[rows], t, text[rows], clean[rows]).square().mean().backward()
    Ranks(rank, world).sum_gradients(student.parameters())
    kept = {
        f"gradient/{name}": weight.grad / world
        for name, weight in student.named_parameters()
        if weight.grad is not None
    }
    noise = torch.randn(1, 4, *student.geometry.shape(1)[1:], generator=Generator().manual_seed(3))
    kept["rollout"] = rollout(student.eval(), text[:1], noise, step_list(4, 5))
    frozen = [weight for name, weight in student.blocks.named_parameters() if ".lora_" not in name]
    held = [weight.to_local() if world > 1 else weight for weight in frozen]
    kept["held"] = torch.tensor(float(sum(weight.numel() for weight in held)))
    return kept


def main(rank: int, world: int, port: str, file: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    kept = computed(rank, world)
    if rank == 0:
        save_file({name: value.contiguous() for name, value in kept.items()}, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
