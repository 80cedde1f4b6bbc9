"""LoRA adapters by peft: one frozen network for every role of an update.

student      the adapter in training
behaviour    a second adapter, a copy of the student's weights as they made the rollouts (v_old)
reference    the network with its adapters off (v_ref), or an adapter of its own

A copy that silently never happened is a known fault of such set-ups, so an adapter's weights have a
fingerprint: that of the rollouts must equal the behaviour's (afd.students.update_models).
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from afd.config import LoraParams
from afd.latents import BlockTimes, LatentGeometry, Latents, Text
from afd.students.anyflow_far import AnyFlowFar
from afd.students.causal_wan import CausalWan
from afd.students.layouts import to_original
from afd.students.strict_loading import MAX_LISTED, CheckpointError, misfits

Adapter = Literal["student", "behaviour", "reference"]
Adapted: TypeAlias = CausalWan | AnyFlowFar
TARGETS = {
    "attention": r"blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)",
    "all": r"blocks\.\d+\.(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ffn\.net\.(0\.proj|2))",
}


def add_adapter(
    model: Adapted, name: Adapter, params: LoraParams, generator: Generator | None = None
) -> None:
    """Add an adapter that changes no output: A drawn from `generator`, B zero, the base frozen.

    Without a generator A is zero as well, as the place of weights to load.
    """
    config = LoraConfig(
        r=params.rank,
        lora_alpha=cast(int, params.alpha),  # W + alpha / rank B A holds for any number
        target_modules=TARGETS[params.targets],
        init_lora_weights=False,
    )
    model.requires_grad_(False)
    # peft warns about an earlier adapter's config; a second adapter is intended here
    earlier = model.__dict__.pop("peft_config", {})
    if name in earlier:
        raise ValueError(f"the network has an adapter {name!r} already")
    with torch.random.fork_rng(devices=()):  # peft draws globally
        inject_adapter_in_model(config, model, name)
    model.peft_config = earlier | model.peft_config  # type: ignore[operator]
    for key, weight in _parameters(model, name).items():
        weight.data = weight.data.float()  # master weights, whatever the base's precision
        if key.endswith("lora_B.weight") or generator is None:
            nn.init.zeros_(weight)
        else:
            nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)
    activate(model, name)


def activate(model: Adapted, name: Adapter | None, *, trains: bool = False) -> None:
    """Activate one adapter, or none. Only an active student can train."""
    for layer in _layers(model):
        if name is None:
            layer.enable_adapters(False)
        else:
            layer.set_adapter(name, inference_mode=not trains)
            layer._disable_adapters = False  # enable_adapters would undo inference_mode


@contextlib.contextmanager
def active_adapter(model: Adapted, name: Adapter | None) -> Iterator[None]:
    """Activate another adapter for passes without gradient, then the one before again.

    Gradient checkpointing computes a pass again in backward, and needs the student active then.
    """
    first = _layers(model)[0]
    before = None if first.disable_adapters else first.active_adapters[0]
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    activate(model, name)
    try:
        yield
    finally:
        activate(model, before, trains=bool(trained))  # type: ignore[arg-type]


@dataclass(frozen=True)
class AdapterView:
    """A network with one of its adapters or none, as a Student without gradients."""

    model: Adapted
    adapter: Adapter | None

    @property
    def geometry(self) -> LatentGeometry:
        return self.model.geometry

    def velocity(self, noisy: Latents, t: BlockTimes, text: Text, clean: Latents) -> Latents:
        with torch.no_grad(), active_adapter(self.model, self.adapter):
            return self.model.velocity(noisy, t, text, clean)

    def lengthened(self, num_latent_frames: int) -> "AdapterView":
        return AdapterView(self.model.lengthened(num_latent_frames), self.adapter)

    def start(self, text: Text) -> Any:
        return self.model.start(text)

    def block_velocity(self, noisy_block: Latents, t: Tensor, cache: Any) -> Latents:
        with torch.no_grad(), active_adapter(self.model, self.adapter):
            return self.model.block_velocity(noisy_block, t, cache)

    def commit(self, clean_block: Latents, cache: Any) -> None:
        with active_adapter(self.model, self.adapter):
            self.model.commit(clean_block, cache)


def adapter_state(model: Adapted, name: Adapter) -> dict[str, Tensor]:
    """Return an adapter's tensors under the names that peft and diffusers save."""
    return {
        key: value.detach().contiguous().clone()
        for key, value in get_peft_model_state_dict(model, adapter_name=name).items()
    }


def load_adapter(model: Adapted, name: Adapter, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load tensors into an adapter, all or none; raises CheckpointError."""
    if problems := misfits(adapter_state(model, name), tensors):
        lines = "\n".join(f"  - {problem}" for problem in problems[:MAX_LISTED])
        raise CheckpointError(f"{source}: {len(problems)} tensor(s) do not fit this LoRA\n{lines}")
    set_peft_model_state_dict(model, dict(tensors), adapter_name=name)


def trained_weights(model: Adapted, name: Adapter) -> nn.Module:
    """Return the adapter's own parameters as a module, for optimiser, average and file."""
    whole = nn.Module()
    for key, weight in _parameters(model, name).items():
        *path, leaf = key.split(".")
        at = whole
        for part in path:
            if part not in at._modules:
                at.add_module(part, nn.Module())
            at = at.get_submodule(part)
        at.register_parameter(leaf, weight)
    return whole


def folded_state(model: Adapted, name: Adapter) -> tuple[dict[str, Tensor], float]:
    """Return an adapter's tensors with alpha / rank multiplied into B, and that factor.

    Many readers look at no metadata and take alpha = rank: so every reader has the full strength.
    """
    config = model.peft_config[name]  # type: ignore[index]
    factor = float(config.lora_alpha) / float(config.r)
    return {
        key: value * factor if key.endswith(".lora_B.weight") else value
        for key, value in adapter_state(model, name).items()
    }, factor


def export_lora(model: Adapted, name: Adapter, folder: Path) -> Path:
    """Write pytorch_lora_weights.safetensors for WanPipeline.load_lora_weights; return it."""
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline

    state, _ = folded_state(model, name)
    described: dict[str, Any] = model.peft_config[name].to_dict()
    linears = {re.sub(r"\.lora_[AB]\.weight$", "", key) for key in state}
    described["target_modules"] = sorted(linears)
    described["peft_type"] = str(described["peft_type"].value)
    described["lora_alpha"] = described["r"]  # the factor is in B
    WanPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=dict(state),
        transformer_lora_adapter_metadata=described,
    )
    return folder / "pytorch_lora_weights.safetensors"


def export_original_lora(model: Adapted, name: Adapter, folder: Path) -> Path:
    """Write lora.safetensors under the original's names, as ComfyUI reads it; return it."""
    state, _ = folded_state(model, name)
    named: dict[str, Tensor] = {}
    for half in (".lora_A.weight", ".lora_B.weight"):
        weights = {
            f"{k.removesuffix(half)}.weight": v for k, v in state.items() if k.endswith(half)
        }
        for key, value in to_original(weights).items():
            named[f"diffusion_model.{key.removesuffix('.weight')}{half}"] = value.contiguous()
    save_file(named, folder / "lora.safetensors", metadata={"format": "pt"})
    return folder / "lora.safetensors"


def described(model: Adapted, name: Adapter) -> str:
    """Return rank, layers and strength of an exported adapter, for people."""
    state, factor = folded_state(model, name)
    rank, layers = model.peft_config[name].r, len(state) // 2  # type: ignore[index]
    return (
        f"LoRA of rank {rank} on {layers} linear layers; alpha / rank = {factor:g} is multiplied "
        "into its B: load it with strength 1"
    )


@torch.no_grad()
def merged(model: Adapted, name: Adapter) -> dict[str, Tensor]:
    """Return the network's weights plus the adapter's, under Wan's own names (diffusers' layout).

    Sums are float32 at every precision of the network: after some rounds the adapter's share has
    the size of bfloat16's own steps (6e-5 at a weight of .02), and rounding would export another
    student.
    """
    added = {path: layer.get_delta_weight(name) for path, layer in _named_layers(model).items()}  # type: ignore[operator]
    state: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if ".lora_" in key:
            continue
        bare = key.replace(".base_layer.", ".")
        delta = added.get(bare.removesuffix(".weight"))
        state[bare] = value if delta is None else value.float() + delta.float()
    return state


def _layers(model: Adapted) -> list[BaseTunerLayer]:
    return list(_named_layers(model).values())


def _named_layers(model: Adapted) -> dict[str, BaseTunerLayer]:
    return {
        path: module for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }


def _parameters(model: Adapted, name: Adapter) -> dict[str, nn.Parameter]:
    """Return the adapter's parameters, by their names without the adapter's."""
    mark = f".{name}."
    return {
        key.replace(mark, "."): weight
        for key, weight in model.named_parameters()
        if ".lora_" in key and mark in key
    }
