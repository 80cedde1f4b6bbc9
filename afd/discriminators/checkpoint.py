"""Discriminator weights on disk.

discriminator.json          params and setting
discriminator.safetensors   `discriminator/...` and `optimiser/...`: refitting goes on from both

Of a large backbone only what trains is here; the rest stays where params say.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from afd import seeds
from afd.config import Discriminator as DiscriminatorParams
from afd.discriminators.backbones import BackboneError
from afd.discriminators.build import AnyDiscriminator, build
from afd.discriminators.discriminator import Setting, TextEncoder
from afd.errors import InputError

_KINDS: TypeAdapter[DiscriminatorParams] = TypeAdapter(DiscriminatorParams)


class CheckpointError(InputError):
    """A folder that holds no discriminator that fits."""


def params_of(values: Any) -> DiscriminatorParams:
    """Return the params of one kind or another, from the values a request or a file holds."""
    return _KINDS.validate_python(values)


def save(
    folder: Path, params: DiscriminatorParams, setting: Setting, tensors: dict[str, Tensor]
) -> None:
    """Write both files."""
    described = {"params": params.model_dump(mode="json"), **asdict(setting)}
    (folder / "discriminator.json").write_text(json.dumps(described, indent=1))
    save_file(tensors, folder / "discriminator.safetensors")


def load(folder: Path, encode: TextEncoder) -> AnyDiscriminator:
    """Load the discriminator of a DiscriminatorWeights folder, strictly, ready to score."""
    prefix = "discriminator/"
    try:
        described = json.loads((folder / "discriminator.json").read_text())
        params = params_of(described.pop("params"))
        model = build(params, Setting(**described), encode, seeds.generator(0, "overwritten"))
        tensors = load_file(folder / "discriminator.safetensors")
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        wanted = {name for name, p in model.named_parameters() if p.requires_grad}
        if wanted - own.keys():
            raise ValueError(f"missing {sorted(wanted - own.keys())[:5]}")
        unexpected = model.load_state_dict(own, strict=False).unexpected_keys
        if unexpected:
            raise ValueError(f"unexpected {unexpected[:5]}")
    except BackboneError:
        raise  # says itself what to do
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: no discriminator that fits: {error}") from error
    return model.eval().requires_grad_(False)
