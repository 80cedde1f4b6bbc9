"""LoRA files of others, laid over the weights they were trained on.

diffusers, ours  pytorch_lora_weights.safetensors: `transformer.` before diffusers' names, alpha in
                 the metadata; without it alpha is the rank, as diffusers takes it
peft             a folder of adapter_config.json and adapter_model.safetensors; `base_model.model.`
ComfyUI, kohya   `diffusion_model.` or `lora_unet_`, lora_down and lora_up, `.alpha` of a layer
                 (without it the rank), and differences of whole tensors as `.diff` and `.diff_b`
LongLive         a .pt with `generator_lora`, peft's names; its alpha stands in another file
the store        student.safetensors, its alpha in student.json beside it

The result is W + alpha / rank B A: a start like any other checkpoint.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from torch import Tensor, nn

from afd.students.layouts import names, num_layers_of, unwrapped
from afd.students.strict_loading import MAX_LISTED, CheckpointError

FIELD = "student.checkpoint"
ALPHA_FIELD = "student.checkpoint_alpha"
CONFIG = "adapter_config.json"
# Files of weights in a folder that holds a LoRA.
IN_FOLDERS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin")
ENTRIES = ("generator_lora", "lora")  # of a .pt
METADATA = "lora_adapter_metadata"  # diffusers'
MARK = re.compile(r"\.lora_(A|B|down|up|linear_layer)\b|^lora_unet_")
_PREFIX = re.compile(r"^(base_model\.model\.|transformer\.)+")
_PART = re.compile(
    r"^(?P<layer>.+?)\.(?:lora_(?:linear_layer\.)?(?P<half>A|B|down|up)(?:\.default)?\.weight"
    r"|(?P<other>alpha|diff|diff_b))$"
)
_SCALED = re.compile(
    r"^(transformer\.|diffusion_model\.|lora_unet_)"
)  # no alpha: alpha is the rank


@dataclass
class LoraFile:
    """A LoRA sorted by layer, under diffusers' names."""

    source: str
    down: dict[str, Tensor] = field(default_factory=dict[str, Tensor])  # A [rank, in]
    up: dict[str, Tensor] = field(default_factory=dict[str, Tensor])  # B [out, rank]
    alphas: dict[str, float] = field(default_factory=dict[str, float])
    differences: dict[str, Tensor] = field(default_factory=dict[str, Tensor])  # of whole tensors
    settings: dict[str, Any] = field(default_factory=dict[str, Any])  # as peft writes them
    takes_rank: bool = False  # as alpha, where none is told

    @property
    def rank(self) -> str:
        ranks = sorted({len(half) for half in self.down.values()})
        return " and ".join(map(str, ranks)) if len(ranks) < 3 else f"{ranks[0]} to {ranks[-1]}"

    def __str__(self) -> str:
        return f"{self.source}: is a LoRA of rank {self.rank} on {len(self.down)} layers"

    def scale(self, layer: str, given: float | None) -> float | None:
        """Return what multiplies B A; None where nobody tells alpha."""
        rank = len(self.down[layer])
        if layer in self.alphas:
            return self.alphas[layer] / rank
        alpha = given
        if "lora_alpha" in self.settings:
            pattern = self.settings.get("alpha_pattern") or {}
            key = get_pattern_key(list(pattern), layer)
            alpha = float(pattern.get(key, self.settings["lora_alpha"]))
        elif alpha is None and self.takes_rank:
            alpha = float(rank)
        root = math.sqrt(rank) if self.settings.get("use_rslora") else rank
        return None if alpha is None else alpha / root


def is_lora(tensor_names: Iterable[str]) -> bool:
    """Return True where any name is that of a LoRA's half."""
    return any(MARK.search(name) for name in tensor_names)


def file_in(path: Path) -> Path:
    """Return the file of weights of a LoRA's folder; any other path as given."""
    return next((path / name for name in IN_FOLDERS if (path / name).is_file()), path)


def sort(tensors: Mapping[str, Tensor], file: Path) -> LoraFile:
    """Return the LoRA of these tensors of `file`; raises CheckpointError for what it cannot lay."""
    found = LoraFile(str(file), settings=_settings(file))
    found.takes_rank = file.suffix == ".safetensors" and all(map(_SCALED.match, tensors))
    table, strangers = _layers(tensors), list[str]()
    for name, value in tensors.items():
        part = _PART.match(_PREFIX.sub("", name))
        if part is None:
            strangers.append(name)
            continue
        layer = unwrapped(part["layer"])
        layer = table.get(layer, layer)
        match part["half"] or part["other"]:
            case "A" | "down":
                found.down[layer] = value
            case "B" | "up":
                found.up[layer] = value
            case "alpha":
                found.alphas[layer] = float(value)
            case other:
                kind = "weight" if other == "diff" else "bias"
                found.differences[f"{layer}.{kind}"] = value
    if found.settings.get("use_dora"):
        strangers.append(f"use_dora in {CONFIG}")
    if strangers or not found.down:
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        raise CheckpointError(
            f"{found}, with parts that no plain LoRA has: {', '.join(strangers[:3])}{more}; merge "
            f"it into its base with the tool that made it, and write the result in {FIELD}"
        )
    return found


@torch.no_grad()
def lay_over(model: nn.Module, lora: LoraFile, alpha: float | None) -> None:
    """Add a LoRA to the weights of `model`, in float32, all of it or nothing.

    Raises CheckpointError listing what does not fit.
    """
    own = dict(model.named_parameters())
    problems = _misfits(own, lora)
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems[:MAX_LISTED])
        raise CheckpointError(
            f"{lora}, and {len(problems)} part(s) do not fit student.base; nothing was loaded; "
            f"write the weights that it was trained on in student.base\n{lines}"
        )
    refuse_without_alpha(lora, alpha)
    for layer, down in lora.down.items():
        weight, scale = own[f"{layer}.weight"], lora.scale(layer, alpha) or 0.0
        product = lora.up[layer].flatten(1).float() @ down.flatten(1).float()
        weight.data = weight.data.float() + scale * product.reshape(weight.shape)
    for name, value in lora.differences.items():
        own[name].data = own[name].data.float() + value.float().reshape(own[name].shape)


def refuse_without_base(lora: LoraFile, components: Path | None = None) -> NoReturn:
    """Raise CheckpointError for a LoRA where whole weights are wanted."""
    named = lora.settings.get("base_model_name_or_path")
    origin = f" ({named}, by its own words)" if isinstance(named, str) and named else ""
    whole = components is not None and (components / "transformer").is_dir()
    example = f"; of Wan itself: --set student.base={components}" if whole else ""
    raise CheckpointError(
        f"{lora}, not whole weights; nothing was loaded. It starts a student together with the "
        f"weights that it was trained on{origin}: leave it in {FIELD} and add --set "
        f"student.base=PLACE, a .pt, .safetensors or Wan-Diffusers folder of those{example}"
    )


def refuse_without_alpha(lora: LoraFile, alpha: float | None) -> None:
    """Raise CheckpointError where alpha is not known, or is known and another one is given."""
    known = [lora.scale(layer, None) for layer in lora.down]
    if None in known and alpha is None:
        raise CheckpointError(
            f"{lora}, and no alpha is told, in it or beside it: its strength is alpha / rank; look "
            f"into the config that it was trained with, and add --set {ALPHA_FIELD}=ALPHA "
            f"(--set {ALPHA_FIELD}={lora.rank.split()[-1]} is strength 1)"
        )
    if None not in known and alpha is not None:
        rank = len(next(iter(lora.down.values())))
        raise CheckpointError(
            f"{lora}, which tells its own alpha ({known[0] * rank:g}), and {ALPHA_FIELD} is "  # type: ignore[operator]
            f"{alpha:g}: --set {ALPHA_FIELD}=null"
        )


def _misfits(own: Mapping[str, Tensor], lora: LoraFile) -> list[str]:
    problems: list[str] = []
    for layer in sorted(lora.down.keys() | lora.up.keys()):
        wanted = own.get(f"{layer}.weight")
        halves = (lora.down.get(layer), lora.up.get(layer))
        if wanted is None:
            problems.append(f"{layer}: there is no such layer")
        elif halves[0] is None or halves[1] is None:
            problems.append(f"{layer}: one half is missing")
        elif (len(halves[1]), halves[0][0].numel()) != (len(wanted), wanted[0].numel()) or len(
            halves[0]
        ) != halves[1].shape[1]:
            shapes = " x ".join(str(list(half.shape)) for half in (halves[1], halves[0]))
            problems.append(f"{layer}: {shapes} is no {list(wanted.shape)}")
        elif not all(half.isfinite().all() for half in (halves[0], halves[1])):
            problems.append(f"{layer} holds NaN or infinity")
    problems += [f"{n}: alpha is {a}" for n, a in lora.alphas.items() if not math.isfinite(a)]
    for name, value in sorted(lora.differences.items()):
        if name not in own or own[name].numel() != value.numel():
            problems.append(f"{name}: a difference that fits no tensor")
        elif not value.isfinite().all():
            problems.append(f"{name} holds NaN or infinity")
    return problems


def _layers(tensor_names: Iterable[str]) -> dict[str, str]:
    """Return diffusers' name of a layer by the original's, and by kohya's with underscores."""
    plain = [unwrapped(_PREFIX.sub("", name)) for name in tensor_names]
    kohya = [m[1] for name in plain if (m := re.match(r"lora_unet_blocks_(\d+)_", name))]
    num_layers = max([num_layers_of(plain), *(int(number) + 1 for number in kohya)])
    table: dict[str, str] = {}
    for old, new in names(num_layers).items():
        ours, theirs = (name.rpartition(".")[0] for name in (old, new))
        table[ours] = theirs
        for name in (ours, theirs):
            table[f"lora_unet_{name.replace('.', '_')}"] = theirs
    return table


def _settings(file: Path) -> dict[str, Any]:
    """Return rank, alpha and their like as metadata or a file beside the weights tells them."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            stored = (opened.metadata() or {}).get(METADATA)
        if stored is not None:
            values = cast("dict[str, Any]", json.loads(stored))
            return {name.removeprefix("transformer."): value for name, value in values.items()}
    if (beside := file.parent / CONFIG).is_file() and file.name in IN_FOLDERS:
        return cast("dict[str, Any]", json.loads(beside.read_text()))
    if (beside := file.parent / "student.json").is_file():
        return {"lora_alpha": json.loads(beside.read_text())["params"]["lora"]["alpha"]}
    return {}
