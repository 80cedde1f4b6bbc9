"""Sharding of frozen weights over ranks, for networks beyond one GPU (14B and more).

Without it each rank of an update (afd.runtime.ranks) holds the whole network, and gradients are
summed: 28 GB a rank at 1.3B. With FSDP2 a rank holds 1/n of the frozen weights and gathers one
block at a time. LoRAs stay whole on every rank: gradients, moments, averages and checkpoints are as
without sharding, so the number of ranks may change between attempts. At 14B and LoRA rank 256 the
LoRA with its moments and averages takes 29 GB a rank, the frozen network 28 GB / n in bfloat16.
"""

from typing import Any, cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

ADAPTER = ".lora_"  # of peft: in the name of every adapter's weights


def shard_frozen_weights(network: nn.Module, mesh: DeviceMesh | None = None) -> nn.Module:
    """Shard the frozen weights in place, each transformer block and then the rest.

    Needs a process group; from then on every rank makes the same passes in the same order. All
    passes go through the network's own methods: prompts are embedded and cached inside of its
    forward pass, where weights are whole. Returns the network.
    """
    adapters = {weight for name, weight in network.named_parameters() if ADAPTER in name}
    for block in cast(Any, network).blocks:
        fully_shard(block, mesh=mesh, ignored_params=adapters)
    fully_shard(network, mesh=mesh, ignored_params=adapters)
    return network
