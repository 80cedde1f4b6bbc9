"""Fresh student: a block-causal Wan of params' sizes, initialised from one generator alone."""

from typing import cast

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from torch import Generator, nn

from afd.config import CausalWanParams
from afd.latents import LatentGeometry
from afd.students.causal_wan import CausalWan, RunOptions

GATE_ROWS = (2, 5)  # of a block's modulation: shift, scale, gate of attention, then of the ffn


def build(
    params: CausalWanParams, geometry: LatentGeometry, generator: Generator, patch: int = 1
) -> CausalWan:
    """Build a student of params' sizes, initialised from `generator` alone.

    `patch` is the side of a spatial patch in latents: 1 at pocket size, 2 in Wan's checkpoints.
    """
    # diffusers' own initialisation draws globally
    with torch.random.fork_rng(devices=()):  # pyright: ignore[reportUnknownMemberType]
        model = CausalWan(
            patch_size=(1, patch, patch),
            num_attention_heads=params.num_heads,
            attention_head_dim=params.head_dim,
            in_channels=geometry.channels,
            out_channels=geometry.channels,
            text_dim=params.text_dim,
            freq_dim=params.freq_dim,
            ffn_dim=params.ffn_dim,
            num_layers=params.num_layers,
        )
    initialise(model, params.init_gate, generator)
    return model.configure(geometry, RunOptions(params.prediction))


@torch.no_grad()
def initialise(model: WanTransformer3DModel, init_gate: float, generator: Generator) -> None:
    """Initialise by Wan's recipe: Xavier matrices, zero biases, zero output projection.

    `init_gate` is added to the gate rows of every block's modulation. Wan starts them near 0, so
    each block is almost an identity; the pocket student with its 1,200 steps and 3 layers starts
    at .5.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            matrix = module.weight.flatten(1)  # a view: a patch convolution is a matrix too
            nn.init.xavier_uniform_(matrix, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    model.proj_out.weight.zero_()
    width = model.scale_shift_table.shape[2]
    model.scale_shift_table.normal_(generator=generator).div_(width**0.5)
    for block in cast(list[WanTransformerBlock], list(model.blocks)):
        block.scale_shift_table.normal_(generator=generator).div_(width**0.5)
        block.scale_shift_table[:, GATE_ROWS] += init_gate
