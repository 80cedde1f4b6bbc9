"""A network spread over ranks: for those whose weights do not fit into one GPU (14B and beyond).

The ranks of an update (afd.runtime.ranks) each hold the whole network and sum their gradients,
which serves 1.3B: 28 GB a rank. FSDP2 holds 1/n of what is frozen and gathers one block at a time.
LoRAs stay whole on every rank: gradients are summed, moments, averages and checkpoints kept as
without sharding, so the number of ranks may change between attempts. At 14B and rank 256 the LoRA
with all that belongs to it takes 29 GB a rank, the frozen network 28 GB / n in bfloat16.
"""

from typing import Any, cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

ADAPTER = ".lora_"  # of peft: in the name of every adapter's weights


def sharded(network: nn.Module, mesh: DeviceMesh | None = None) -> nn.Module:
    """Shard what is frozen: each transformer block, then what is left; in place, gives the network.

    Needs a process group, and from then on every rank makes the same passes in the same order. All
    passes still go through the network's own methods: prompts are embedded and cached inside of its
    forward pass, where weights are whole.
    """
    adapters = {weight for name, weight in network.named_parameters() if ADAPTER in name}
    for block in cast(Any, network).blocks:
        fully_shard(block, mesh=mesh, ignored_params=adapters)
    fully_shard(network, mesh=mesh, ignored_params=adapters)
    return network
