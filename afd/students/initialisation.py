"""Initial weights of a Wan transformer that starts from nothing, from one generator alone."""

from typing import cast

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from torch import Generator, nn

GATE_ROWS = (2, 5)  # of a block's modulation: shift, scale, gate of attention, then of the ffn


@torch.no_grad()
def initialise(model: WanTransformer3DModel, init_gate: float, generator: Generator) -> None:
    """Wan's own recipe at small scale: Xavier matrices, zero biases, zero output projection.

    `init_gate` is added to the gate rows of every block's modulation. Wan starts them near 0, each
    block almost an identity; the pocket student starts at .5, having 1,200 steps and 3 layers.
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
