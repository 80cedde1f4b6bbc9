"""Strict loading of weights: all tensors fit, or none is loaded."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from afd.errors import InputError

MAX_LISTED = 20


class CheckpointError(InputError):
    """Weights that do not fit their student; lists the differences."""


class UntrainableError(InputError):
    """A student that cannot be trained on this device: the reason and the cure."""


def load_strictly(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    cure: str = "check student.* in params against the weights",
) -> None:
    """Load every tensor or none.

    A module on the meta device takes the tensors themselves, any other one their values. Raises
    CheckpointError listing all missing, unexpected, misshapen, NaN or infinite tensors.
    """
    expected = module.state_dict()
    if problems := misfits(expected, tensors):
        listed = "\n".join(f"  - {problem}" for problem in problems[:MAX_LISTED])
        more = len(problems) - MAX_LISTED
        rest = f"\n  ... and {more} more" if more > 0 else ""
        raise CheckpointError(
            f"{source}: {len(problems)} tensor(s) do not fit this student; nothing was loaded; "
            f"{cure}\n{listed}{rest}"
        )
    on_meta = any(value.is_meta for value in expected.values())
    module.load_state_dict(dict(tensors), assign=on_meta)


def misfits(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the differences of `tensors` from the `expected` names and shapes, one line each."""
    problems = [f"missing {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - expected.keys())]
    for name in sorted(expected.keys() & tensors.keys()):
        if expected[name].shape != tensors[name].shape:
            shapes = f"{list(tensors[name].shape)}, not {list(expected[name].shape)}"
            problems.append(f"{name} is {shapes}")
        elif not torch.isfinite(tensors[name]).all():
            problems.append(f"{name} holds NaN or infinity")
    return problems


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of named values, equal on every device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
