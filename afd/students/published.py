"""Published students: a start made of downloaded files, and a LoRA on top of it.

A start is the StudentWeights folder with the frozen parts of all later ones:

base.json, base.safetensors    the transformer, under diffusers' names, in its own precision
codec.json, codec.safetensors  the VAE
text.safetensors               every prompt of the campaign and the empty one, encoded once by UMT5

No later stage needs a path outside the store, and the text encoder runs in one stage only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from afd.config import AnyFlowFarParams, BlockCausalWan, PublishedStudent
from afd.latents import LatentGeometry
from afd.students import lora, lora_files, vae
from afd.students.anyflow_far import STOCK_CLASS as FAR_CLASS
from afd.students.anyflow_far import AnyFlowFar, load_far
from afd.students.attention_pattern import History
from afd.students.causal_wan import CausalWan, RunOptions
from afd.students.strict_loading import CheckpointError, load_strictly
from afd.students.wan_checkpoints import FIELD as CHECKPOINT_FIELD
from afd.students.wan_checkpoints import TENSORS, load_wan, look_at, read_lora
from afd.text.cached import CachedText, save_encoded
from afd.text.umt5 import Umt5

EMPTY_PROMPT = ""  # of classifier-free guidance
# Small, and worth more than 11 bits of fraction: float32 at every precision.
FLOAT32 = ("condition_embedder.time_", "scale_shift_table", ".norm")
__all__ = ["FAR_CLASS", "MODELS", "AnyFlowFar", "CausalWan"]
PublishedModel = CausalWan | AnyFlowFar
MODELS = (CausalWan, AnyFlowFar)


@dataclass(frozen=True)
class PublishedStart:
    """A published student before any training."""

    student: PublishedModel
    codec: vae.WanCodec
    geometry: LatentGeometry
    weights: nn.Module  # its LoRA


def write_start(
    params: PublishedStudent,
    prompts: Sequence[str],
    clips_shape: torch.Size,
    folder: Path,
    generator: Generator,
) -> PublishedStart:
    """Write base and encoded prompts into `folder`; the caller saves codec and LoRA.

    Raises CheckpointError, TextError or ValueError before anything is written.
    """
    codec = vae.load_published(Path(params.components))
    geometry = codec.geometry(clips_shape, params.latent_frames_per_block)
    model = load_transformer(params)
    _in_precision(model, params)
    configure(model, params, geometry)
    encoder = Umt5(Path(params.components), params.num_text_tokens)
    if encoder.dim != (text_dim := int(model.config.text_dim)):  # type: ignore[attr-defined]
        raise CheckpointError(
            f"{params.components}: its text encoder gives {encoder.dim} numbers a token, the "
            f"transformer of {params.checkpoint} takes {text_dim}; they are of different "
            "checkpoints"
        )
    save_encoded(encoder, [EMPTY_PROMPT, *prompts], folder / "text.safetensors")
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "base.safetensors")
    config = {k: v for k, v in dict(model.config).items() if not k.startswith("_")}
    (folder / "base.json").write_text(json.dumps(config, indent=1))
    lora.add_adapter(model, "student", params.lora, generator)
    return PublishedStart(model, codec, geometry, lora.trained_weights(model, "student"))


def load_transformer(params: PublishedStudent) -> PublishedModel:
    """Return the transformer that params name: whole weights, or a base with a LoRA added.

    Raises CheckpointError.
    """
    lora_file = lora_over_base(params)
    whole = Path(params.checkpoint if lora_file is None else cast(str, params.base))
    if isinstance(params, AnyFlowFarParams):
        model: PublishedModel = load_far(whole)
    else:
        model = load_wan(whole, params.head_dim, params.weights)
    if lora_file is not None:
        lora_files.lay_over(model, lora_file, params.checkpoint_alpha)
    return model


def look(params: PublishedStudent) -> list[str]:
    """Return what names and dtypes of the files show to be wrong, without reading values."""
    problems: list[str] = []
    components = Path(params.components)
    files = [(Path(each), CHECKPOINT_FIELD) for each in (params.checkpoint, params.base) if each]
    parts = [components / "vae" / vae.WEIGHTS, *sorted((components / "text_encoder").glob(TENSORS))]
    for look_into in (
        lambda: lora_over_base(params),
        *(partial(look_at, file, field) for file, field in files),
        *(partial(look_at, part, "student.components") for part in parts),
    ):
        try:
            look_into()
        except CheckpointError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def lora_over_base(params: PublishedStudent) -> lora_files.LoraFile | None:
    """Return the LoRA in student.checkpoint; None where whole weights lie there.

    Raises CheckpointError for one without base or alpha, and for a base or alpha without a LoRA.
    """
    found = read_lora(Path(params.checkpoint))
    if found is not None:
        if params.base is None:
            lora_files.refuse_without_base(found, Path(params.components))
        lora_files.refuse_without_alpha(found, params.checkpoint_alpha)
        return found
    for name in ("base", "checkpoint_alpha"):
        if getattr(params, name) is not None:
            raise CheckpointError(
                f"student.{name} is set, and {params.checkpoint} is no LoRA but whole weights: "
                f"--set student.{name}=null, or write a LoRA in student.checkpoint"
            )
    return None


def load(params: PublishedStudent, geometry: LatentGeometry, folder: Path) -> PublishedModel:
    """Return the frozen network of a start, without a LoRA."""
    kind = AnyFlowFar if isinstance(params, AnyFlowFarParams) else CausalWan
    try:
        config = json.loads((folder / "base.json").read_text())
        tensors = load_file(folder / "base.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: holds no start that loads: {error}") from error
    with init_empty_weights(include_buffers=False):
        model = cast(PublishedModel, kind.from_config(config))
    load_strictly(model, tensors, str(folder / "base.safetensors"))
    configure(model, params, geometry)
    return model.eval().requires_grad_(False)


def configure(model: PublishedModel, params: PublishedStudent, geometry: LatentGeometry) -> None:
    """Set the network's geometry and run options; raises ValueError when they do not fit."""
    if isinstance(model, AnyFlowFar):
        model.configure(geometry, params.precision)
    else:
        model.configure(geometry, run_options(cast(BlockCausalWan, params)))


def run_options(params: BlockCausalWan) -> RunOptions:
    """Return the run options of params; a window counts the sink and the block itself."""
    size, sink, recent = params.latent_frames_per_block, params.sink_frames, None
    if params.window_frames is not None:
        recent = (params.window_frames - sink) // size - 1
    return RunOptions(
        history=History(sink // size, recent),
        context_gradient=params.context_gradient,
        precision=params.precision,
    )


def add_trained_adapter(
    model: PublishedModel,
    params: PublishedStudent,
    name: lora.Adapter,
    tensors: Mapping[str, Tensor],
    source: str,
) -> nn.Module:
    """Add an adapter with these weights and activate it; return its own parameters."""
    lora.add_adapter(model, name, params.lora)
    lora.load_adapter(model, name, tensors, source)
    return lora.trained_weights(model, name)


def load_codec(folder: Path) -> vae.WanCodec:
    """Return the VAE of a start."""
    return vae.load(folder)


def load_encoder(params: PublishedStudent, folder: Path) -> CachedText:
    """Return the encoded prompts of a start as a text encoder."""
    try:
        return CachedText(folder / "text.safetensors", params.num_text_tokens)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: holds no encoded prompts: {error}") from error


def _in_precision(model: nn.Module, params: PublishedStudent) -> None:
    """Cast the frozen weights to the precision of params, except the small ones of FLOAT32."""
    dtype = torch.bfloat16 if params.precision == "bfloat16" else torch.float32
    for name, weight in model.named_parameters():
        is_small = any(part in name for part in FLOAT32)
        weight.data = weight.data.to(torch.float32 if is_small else dtype)
