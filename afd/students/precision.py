"""Precision of matrix products and attention; stored tensors have their own."""

import contextlib
from typing import Any, Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["float32", "bfloat16"]


def autocast_to(
    precision: Precision, device: torch.device
) -> contextlib.AbstractContextManager[Any]:
    """Return a context whose products run in this precision; float32 changes nothing."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context inside of `autocast_to` that computes in its inputs' precision."""
    if device.type == "meta":  # has no autocast, and nothing to compute
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
