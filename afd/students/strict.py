"""Weights go in whole or not at all."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

NUM_SHOWN = 20


class CheckpointError(ValueError):
    """Weights that do not fit the student they are meant for; lists what differs."""


class UntrainableError(ValueError):
    """A student that cannot be trained where it is: why, and what to do."""


def load_strictly(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    cure: str = "check student.* in params against the weights",
) -> None:
    """Load every tensor or none; a partial load is never silent.

    A module on the meta device takes the tensors themselves, any other one their values. Raises
    CheckpointError listing what is missing, unexpected, misshapen, NaN or infinite.
    """
    wanted = module.state_dict()
    if problems := misfits(wanted, tensors):
        shown = "\n".join(f"  - {problem}" for problem in problems[:NUM_SHOWN])
        more = len(problems) - NUM_SHOWN
        rest = f"\n  ... and {more} more" if more > 0 else ""
        raise CheckpointError(
            f"{source}: {len(problems)} tensor(s) do not fit this student; nothing was loaded; "
            f"{cure}\n{shown}{rest}"
        )
    on_meta = any(value.is_meta for value in wanted.values())
    module.load_state_dict(dict(tensors), assign=on_meta)


def misfits(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps `tensors` from being loaded where `wanted` stands, one line each."""
    problems = [f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & tensors.keys()):
        if wanted[name].shape != tensors[name].shape:
            shapes = f"{list(tensors[name].shape)}, not {list(wanted[name].shape)}"
            problems.append(f"{name} is {shapes}")
        elif not torch.isfinite(tensors[name]).all():
            problems.append(f"{name} holds NaN or infinity")
    return problems


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Fingerprint of named values, whatever device holds them."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
