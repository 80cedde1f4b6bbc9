"""The precision of matrix products and attention; what is kept is decided by whoever keeps it."""

import contextlib
from typing import Any, Literal, TypeAlias

import torch

Precision: TypeAlias = Literal["float32", "bfloat16"]


def computing(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A passage in which products run in this precision; float32 changes nothing."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def exactly(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A passage inside of one above that keeps the precision of what it is given."""
    if device.type == "meta":  # has no autocast, and nothing to compute
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
