"""Students that others trained: a start made of their files, and a LoRA on top of it.

A start is the StudentWeights folder from which all later ones read what is frozen:

base.json, base.safetensors    the transformer, under diffusers' names, in its own precision
codec.json, codec.safetensors  the VAE
text.safetensors               every prompt of the campaign and the empty one, encoded once by UMT5

So no later stage needs a path outside the store, and the text encoder runs in one stage only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from afd.config import AnyFlowFarParams, BlockCausalWan, PublishedStudent
from afd.latents import LatentGeometry
from afd.students import lora, vae
from afd.students.anyflow_far import STOCK_CLASS as FAR_CLASS
from afd.students.anyflow_far import AnyFlowFar, load_far
from afd.students.causal_wan import CausalWan, Manner
from afd.students.foreign import load_wan
from afd.students.reach import History
from afd.students.strict import CheckpointError, load_strictly
from afd.text.cached import CachedText, save_encoded
from afd.text.umt5 import Umt5

EMPTY_PROMPT = ""  # of classifier-free guidance
# Small, and worth more than 11 bits of fraction: kept in float32 whatever the precision is.
FLOAT32 = ("condition_embedder.time_", "scale_shift_table", ".norm")
__all__ = ["FAR_CLASS", "MODELS", "AnyFlowFar", "CausalWan"]
PublishedModel = CausalWan | AnyFlowFar
MODELS = (CausalWan, AnyFlowFar)


@dataclass(frozen=True)
class Started:
    """A published student that has not learned anything yet."""

    student: PublishedModel
    codec: vae.WanCodec
    geometry: LatentGeometry
    weights: nn.Module  # its LoRA


def start(
    params: PublishedStudent,
    prompts: Sequence[str],
    clips_shape: torch.Size,
    folder: Path,
    generator: Generator,
) -> Started:
    """Write base and encoded prompts into `folder`; codec and LoRA are for the caller to save.

    Raises CheckpointError, TextError or ValueError: all of it fits, or nothing is written.
    """
    codec = vae.load_published(Path(params.components))
    geometry = codec.geometry(clips_shape, params.latent_frames_per_block)
    if isinstance(params, AnyFlowFarParams):
        model: PublishedModel = load_far(Path(params.checkpoint))
    else:
        model = load_wan(Path(params.checkpoint), params.head_dim, params.weights)
    _in_precision(model, params)
    adopt(model, params, geometry)
    encoder = Umt5(Path(params.components), params.num_text_tokens)
    if encoder.dim != (wanted := int(model.config.text_dim)):  # type: ignore[attr-defined]
        raise CheckpointError(
            f"{params.components}: its text encoder gives {encoder.dim} numbers a token, the "
            f"transformer of {params.checkpoint} takes {wanted}; they are of different checkpoints"
        )
    save_encoded(encoder, [EMPTY_PROMPT, *prompts], folder / "text.safetensors")
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "base.safetensors")
    config = {k: v for k, v in dict(model.config).items() if not k.startswith("_")}
    (folder / "base.json").write_text(json.dumps(config, indent=1))
    lora.add_adapter(model, "student", params.lora, generator)
    return Started(model, codec, geometry, lora.trained_weights(model, "student"))


def load(params: PublishedStudent, geometry: LatentGeometry, folder: Path) -> PublishedModel:
    """The frozen network of a start, without a LoRA."""
    kind = AnyFlowFar if isinstance(params, AnyFlowFarParams) else CausalWan
    try:
        config = json.loads((folder / "base.json").read_text())
        tensors = load_file(folder / "base.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: holds no start that loads: {error}") from error
    with init_empty_weights(include_buffers=False):
        model = cast(PublishedModel, kind.from_config(config))
    load_strictly(model, tensors, str(folder / "base.safetensors"))
    adopt(model, params, geometry)
    return model.eval().requires_grad_(False)


def adopt(model: PublishedModel, params: PublishedStudent, geometry: LatentGeometry) -> None:
    """Tell the network its geometry and how it is run; raises ValueError when they do not fit."""
    if isinstance(model, AnyFlowFar):
        model.adopt(geometry, params.precision)
    else:
        model.adopt(geometry, manner(cast(BlockCausalWan, params)))


def manner(params: BlockCausalWan) -> Manner:
    """Return the run options of params; a window counts the sink and the block itself."""
    size, sink, recent = params.latent_frames_per_block, params.sink_frames, None
    if params.window_frames is not None:
        recent = (params.window_frames - sink) // size - 1
    return Manner(
        history=History(sink // size, recent),
        context_gradient=params.context_gradient,
        precision=params.precision,
    )


def give(
    model: PublishedModel,
    params: PublishedStudent,
    name: lora.Adapter,
    tensors: Mapping[str, Tensor],
    source: str,
) -> nn.Module:
    """Add an adapter with these weights and let it play; gives its own parameters."""
    lora.add_adapter(model, name, params.lora)
    lora.load_adapter(model, name, tensors, source)
    return lora.trained_weights(model, name)


def load_codec(folder: Path) -> vae.WanCodec:
    """The VAE of a start."""
    return vae.load(folder)


def load_encoder(params: PublishedStudent, folder: Path) -> CachedText:
    """The encoded prompts of a start."""
    try:
        return CachedText(folder / "text.safetensors", params.num_text_tokens)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: holds no encoded prompts: {error}") from error


def _in_precision(model: nn.Module, params: PublishedStudent) -> None:
    """Frozen weights in the precision of params, but for the small ones that deserve float32."""
    dtype = torch.bfloat16 if params.precision == "bfloat16" else torch.float32
    for name, weight in model.named_parameters():
        is_small = any(part in name for part in FLOAT32)
        weight.data = weight.data.to(torch.float32 if is_small else dtype)
