"""Copies and running averages of a student's parameters.

A campaign holds up to four sets of weights: the student in training, the behaviour student (its
rollouts are the data), the reference student (of the prior loss) and the exponential moving average
(for evaluation). At pocket size these are copies; at real size adapters.
"""

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(module: Module) -> Module:
    """Return a copy that shares no memory with `module` and takes no gradient."""
    return copy.deepcopy(module).requires_grad_(False).eval()


def averaged(
    average: Mapping[str, Tensor], current: Mapping[str, Tensor], decay: float
) -> dict[str, Tensor]:
    """decay * average + (1 - decay) * current, entry by entry; integers are taken from `current`.

    Raises ValueError for a decay outside [0, 1], KeyError for different names in the two.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay is {decay}: must lie in [0, 1]")
    if average.keys() != current.keys():
        odd = sorted(average.keys() ^ current.keys())
        raise KeyError(f"average and current are of different models: only one has {odd}")
    return {
        name: torch.lerp(value, average[name], decay)
        if value.is_floating_point()
        else value.clone()
        for name, value in current.items()
    }


@torch.no_grad()
def average_into(average: nn.Module, student: nn.Module, decay: float) -> None:
    """Move `average` in place towards `student`: one update of an exponential moving average."""
    if not 0 <= decay <= 1:
        raise ValueError(f"decay is {decay}: must lie in [0, 1]")
    for mean, current in zip(average.parameters(), student.parameters(), strict=True):
        mean.lerp_(current, 1 - decay)
