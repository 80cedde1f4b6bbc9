"""Discriminator weights on disk.

discriminator.json          params and sizes
discriminator.safetensors   `discriminator/...` and `optimiser/...`: refitting goes on from both
"""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from afd import seeds
from afd.config import ConvDiscriminator as ConvParams
from afd.discriminators.conv import ConvDiscriminator, build


class CheckpointError(ValueError):
    """A folder that holds no discriminator that fits."""


def save(
    folder: Path, params: ConvParams, num_frames: int, frame_size: int, text_dim: int,
    tensors: dict[str, Tensor],
) -> None:  # fmt: skip
    """Write both files."""
    described = {
        "params": params.model_dump(mode="json"),
        "num_frames": num_frames,
        "frame_size": frame_size,
        "text_dim": text_dim,
    }
    (folder / "discriminator.json").write_text(json.dumps(described, indent=1))
    save_file(tensors, folder / "discriminator.safetensors")


def load(folder: Path) -> ConvDiscriminator:
    """The discriminator of a DiscriminatorWeights folder, strictly, ready to score."""
    prefix = "discriminator/"
    try:
        described = json.loads((folder / "discriminator.json").read_text())
        params = ConvParams.model_validate(described.pop("params"))
        draw = seeds.generator(0, "overwritten")
        model = build(params, generator=draw, **described)
        tensors = load_file(folder / "discriminator.safetensors")
        model.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: no discriminator that fits: {error}") from error
    return model.eval().requires_grad_(False)
