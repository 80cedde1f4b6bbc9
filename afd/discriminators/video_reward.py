"""VideoAlign's VideoReward as a start: its weights by name, strictly, onto stock Qwen2-VL.

VideoAlign (arXiv:2501.13918) wrote its class for an older transformers: a Qwen2-VL with a head
`rm_head` and LoRA by peft. It leaves, and this reads:

model_config.json, checkpoint-N/model.pth    as published: every tensor, LoRA beside its weights
adapter_config.json, adapter_model.safetensors, non_lora_state_dict.pth    an adapter's folder
one file                                     a state dict without LoRA, or one with it merged; or
                                             LoRA and head alone, as AFD's discriminator.pt

LoRA is merged into the weights it was trained on, W + scale B A, so that a fresh LoRA starts
exactly there.
"""

import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from afd import stored_dtypes
from afd.discriminators.backbones import BackboneError, refuse, refuse_packed

FIELD = "discriminator.reward"
ALPHA_FIELD = "discriminator.reward_alpha"
HEAD = "rm_head.weight"
# Names of the same head in files of others, behind their wrappers.
_HEAD = re.compile(
    r"^(language_model\.)?(rm_head|reward_head|score_head|value_head|v_head|score|head)"
    r"(\.(weight|0\.weight|linear\.weight))?$"
)
_ALPHA = re.compile(r"(^|\.)(lora_)?alpha$")  # a number beside the tensors, or a tensor of one
# Saved by VideoAlign and used by nobody here: the language head answers no question.
UNUSED = re.compile(r"^lm_head\.|\.rotary_emb\.inv_freq$")
# Entries of a torch.save file: around a state, and no weights at all.
WRAPPER = re.compile(r"^(state_dict|model|module|discriminator|weights|.*lora.*|adapter)$", re.I)
NO_WEIGHTS = re.compile(r"optim|sched|scaler|rng", re.I)
_LORA = re.compile(r"^(?P<layer>.+)\.lora_(?P<half>[AB])(\.\w+)?\.weight$")
_RENAMED = (
    (re.compile(r"(^|\.)(_fsdp_wrapped_module|_orig_mod|module)(?=\.)"), ""),
    (re.compile(r"^(discriminator\.|backbone\.|(model\.)?base_model\.model\.)+"), ""),
    (re.compile(r"^(model\.)+"), "model."),
    (re.compile(r"\.base_layer\."), "."),
    (re.compile(r"\.(original_module|modules_to_save\.default)\."), "."),
    (re.compile(r"^model\.(language_model|visual)\."), r"\1."),
    (re.compile(r"^model\."), "language_model."),
)


@dataclass
class Reward:
    """A checkpoint sorted by what it is: whole tensors, LoRA halves, the head."""

    whole: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    lora: dict[str, dict[str, Tensor]] = field(default_factory=dict[str, dict[str, Tensor]])
    head: Tensor | None = None
    scale: float | None = None  # alpha / r, or alpha / root r, of every layer
    alpha: float | None = None  # in place of it
    is_whole: bool = True  # every tensor of the backbone is there, LoRA or not


def read(place: str, alpha: float | None = None) -> Reward:
    """Return the VideoReward checkpoint at `place`; raises BackboneError.

    `alpha` is that of a LoRA whose files do not hold it.
    """
    reward = _read(place)
    is_known = reward.scale is not None or reward.alpha is not None
    if alpha is not None and (is_known or not reward.lora):
        why = "tells its own alpha" if reward.lora else "holds no LoRA"
        raise BackboneError(
            f"{FIELD}: {place} {why}, and {ALPHA_FIELD} is {alpha:g}: --set {ALPHA_FIELD}=null"
        )
    if reward.lora and not is_known and alpha is None:
        rank = next(len(halves["A"]) for halves in reward.lora.values() if "A" in halves)
        raise BackboneError(
            f"{FIELD}: {place} is a LoRA of rank {rank} on {len(reward.lora)} layers"
            f"{'' if reward.head is None else ' with a head'}, and no alpha stands in it or beside "
            "it: its strength is alpha / rank; look into the config that it was trained with, and "
            f"add --set {ALPHA_FIELD}=ALPHA (--set {ALPHA_FIELD}={rank} is strength 1); nothing "
            "was loaded"
        )
    reward.alpha = reward.alpha if is_known else alpha
    return reward


def _read(place: str) -> Reward:
    path = Path(place)
    where = f"{FIELD}: {path}"
    try:
        if checkpoints := list(path.glob("checkpoint-*/model.pth")):
            config = json.loads((path / "model_config.json").read_text())["peft_lora_config"]
            reward = sort(_tensors(max(checkpoints, key=_step)))
            reward.scale = _scale(config, config["lora_r"])
            return reward
        if path.is_dir():
            files = [path / "adapter_model.safetensors", path / "non_lora_state_dict.pth"]
            if not all(file.is_file() for file in files):
                absent = [file.name for file in files if not file.is_file()]
                raise BackboneError(
                    f"{where} holds no {' and no '.join(['checkpoint-N/model.pth', *absent])}; "
                    "nothing is downloaded by itself: put VideoReward's checkpoint there, or set "
                    "discriminator.reward=null to start from Qwen2-VL alone"
                )
            config = json.loads((path / "adapter_config.json").read_text())
            tensors = _tensors(files[0]) | _tensors(files[1])
            reward = sort(tensors)
            reward.scale, reward.is_whole = _scale(config, config["r"]), False
            return reward
        return sort(_tensors(path))
    except FileNotFoundError as error:
        raise BackboneError(
            f"{where}: {error.filename or path} is not there; nothing is downloaded by itself: put "
            "VideoReward's checkpoint there, or set discriminator.reward=null"
        ) from None
    except UnpicklingError:  # torch's own words advise to run what it holds
        raise BackboneError(
            f"{where}: holds code or objects other than tensors, or is damaged (refused); download "
            "it again, or convert it to .safetensors where you trust it"
        ) from None
    except BackboneError:
        raise
    except Exception as error:  # a user's files, and a library's choice of classes
        reason = f"{type(error).__name__}: {str(error)[:300]}"
        raise BackboneError(
            f"{where} cannot be read as weights alone ({reason}); copy or download it again, or "
            "set discriminator.reward=null to start from Qwen2-VL alone"
        ) from error


def _scale(config: Mapping[str, Any], rank: Any) -> float:
    """peft's: alpha / r, or with rank-stabilised LoRA alpha / root r."""
    r = float(rank)
    return float(config["lora_alpha"]) / (math.sqrt(r) if config.get("use_rslora") else r)


def _step(checkpoint: Path) -> int:
    """N of checkpoint-N/model.pth."""
    return int(checkpoint.parent.name.removeprefix("checkpoint-"))


def _tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors or torch file; code in a pickle is never run."""
    if file.suffix == ".safetensors":
        refuse_packed(stored_dtypes.of_safetensors(file), file, FIELD)
        return load_file(file)
    zipped = True if zipfile.is_zipfile(file) else None
    tensors = dict(_named(torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)))
    if not tensors:
        raise BackboneError(f"{FIELD}: {file} holds no named tensors; copy or download it again")
    refuse_packed(stored_dtypes.of_tensors(tensors), file, FIELD)
    return tensors


def _named(saved: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dicts; a wrapper's name is dropped, any other one a prefix.

    Optimisers and their like are no weights; a number called alpha comes along as a tensor.
    """
    if isinstance(saved, Tensor):
        yield path, saved
    elif isinstance(saved, Mapping):
        for name, value in cast("Mapping[Any, Any]", saved).items():
            part = str(name)
            if path == "" and isinstance(value, Mapping):
                if NO_WEIGHTS.search(part):
                    continue
                yield from _named(value, "" if WRAPPER.search(part) else part)
            else:
                yield from _named(value, f"{path}.{part}".lstrip("."))
    elif isinstance(saved, int | float) and _ALPHA.search(path):
        yield path, torch.tensor(float(saved))


def sort(tensors: dict[str, Tensor]) -> Reward:
    """Names of any transformers and peft -> names of today's Qwen2VLModel."""
    reward, alphas = Reward(), list[float]()
    for name, value in tensors.items():
        if _ALPHA.search(name) and value.numel() == 1:
            alphas.append(float(value))
            continue
        for pattern, new in _RENAMED:
            name = pattern.sub(new, name).lstrip(".")  # noqa: PLW2901
        if UNUSED.search(name):
            continue
        if found := _LORA.match(name):
            reward.lora.setdefault(found["layer"], {})[found["half"]] = value
        elif _HEAD.match(name):
            reward.head = value.reshape(1, -1) if value.ndim == 1 else value
        else:
            reward.whole[name] = value
    if reward.lora and len(set(alphas)) == 1:  # several ones are asked about
        reward.alpha = alphas[0]
    # A part over its backbone has no weight under its LoRA, or no layer at all.
    layers = reward.lora or dict.fromkeys(
        name for name in reward.whole if name.startswith("language_model.layers.")
    )
    reward.is_whole = any(
        name in reward.whole or f"{name}.weight" in reward.whole for name in layers
    )
    return reward


@torch.no_grad()
def start_from(model: nn.Module, head: nn.Linear, reward: Reward, place: str) -> None:
    """Copy and merge every tensor of `reward` into `model` and `head`, or none of them.

    An embedding with fewer rows fills the first ones: VideoAlign cut the unused end of the
    vocabulary off. Raises BackboneError listing every tensor that does not fit.
    """
    own = dict(model.named_parameters())
    refuse_misfits(own, tuple(head.weight.shape), reward, place)
    for name, value in reward.whole.items():
        own[name][: len(value)].copy_(value)
    for layer, halves in reward.lora.items():
        scale = reward.scale
        if scale is None:
            scale = (reward.alpha or 0.0) / len(halves["A"])
        merged = scale * (halves["B"].float() @ halves["A"].float())
        weight = own[f"{layer}.weight"]
        weight.copy_(weight.float() + merged)
    head.weight.copy_(cast(Tensor, reward.head))


def refuse_misfits(
    own: Mapping[str, Tensor], head: tuple[int, ...], reward: Reward, place: str
) -> None:
    """Raise BackboneError for what fits neither the backbone's tensors nor its head's shape.

    Tensors without values (meta) are compared by shape alone.
    """
    problems = [*_misfits(own, reward), *_misfits_of_lora(own, reward.lora)]
    if reward.head is None or tuple(reward.head.shape) != head:
        shape = None if reward.head is None else list(reward.head.shape)
        problems.append(f"{HEAD} is {shape}, not {list(head)}")
    refuse(problems, f"{FIELD}: {place}", "check that discriminator.backbone is its base")


def _misfits(own: Mapping[str, Tensor], reward: Reward) -> list[str]:
    """Whole tensors: unexpected, misshapen, not finite, or missing where all should be there."""
    problems = [f"unexpected {name}" for name in sorted(reward.whole.keys() - own.keys())]
    if reward.is_whole:
        problems += [f"missing {name}" for name in sorted(own.keys() - reward.whole.keys())]
    for name in sorted(reward.whole.keys() & own.keys()):
        value, wanted = reward.whole[name], own[name]
        if not _fits(name, value, wanted):
            problems.append(f"{name} is {list(value.shape)}, not {list(wanted.shape)}")
        elif not wanted.is_meta and not value.isfinite().all():
            problems.append(f"{name} holds NaN or infinity")
    return problems


def _misfits_of_lora(own: Mapping[str, Tensor], lora: dict[str, dict[str, Tensor]]) -> list[str]:
    problems: list[str] = []
    for layer, halves in sorted(lora.items()):
        wanted = own.get(f"{layer}.weight")
        if wanted is None:
            problems.append(f"LoRA of {layer}: there is no such layer")
        elif halves.keys() != {"A", "B"}:
            problems.append(f"LoRA of {layer}: one half is missing")
        elif (len(halves["B"]), halves["A"].shape[1]) != tuple(wanted.shape) or len(
            halves["A"]
        ) != halves["B"].shape[1]:
            problems.append(f"LoRA of {layer} is for another shape than {list(wanted.shape)}")
        elif not wanted.is_meta and not all(half.isfinite().all() for half in halves.values()):
            problems.append(f"LoRA of {layer} holds NaN or infinity")
    return problems


def _fits(name: str, value: Tensor, wanted: Tensor) -> bool:
    if value.shape == wanted.shape:
        return True
    shorter = value.ndim == 2 and len(value) < len(wanted) and value.shape[1] == wanted.shape[1]
    return name.endswith("embed_tokens.weight") and shorter
