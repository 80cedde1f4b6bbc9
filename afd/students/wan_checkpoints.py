"""Strict reader of published Wan weights, in either layout; runs no code of a file.

.pt, .pth, .bin   torch.save of a state, or of {generator, generator_ema, critic}: Self-Forcing and
                  Causal-Forcing; tensors only, memory-mapped, wrappers' prefixes taken off
.safetensors      one file in either layout
folder            a Wan-Diffusers folder, or the `transformer` folder in it; shards by their index
"""

import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor

from afd import stored_dtypes
from afd.students import lora_files
from afd.students.causal_wan import CausalWan
from afd.students.layouts import layout_of, num_layers_of, to_diffusers, unwrapped
from afd.students.strict_loading import CheckpointError, load_strictly

Entry = Literal["generator_ema", "generator"]
ENTRIES: tuple[Entry, ...] = ("generator_ema", "generator")  # the first that is there
BARE_ENTRIES = ("state_dict", "model")  # other names around a single state
TENSORS = "*.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
SINGLE = "diffusion_pytorch_model.safetensors"
FIELD = "student.checkpoint (under a LoRA: student.base)"
POINTER = b"version https://git-lfs"
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # a name that a pickle imports, in torch's message
STOCK_CLASS = "WanTransformer3DModel"
# Fields of a config.json; no other one changes a text-to-video transformer.
CONFIG = (
    "patch_size", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels",
    "text_dim", "freq_dim", "ffn_dim", "num_layers", "cross_attn_norm", "qk_norm", "eps",
    "rope_max_seq_len",
)  # fmt: skip


@dataclass(frozen=True)
class WanCheckpoint:
    """Tensors of a checkpoint under diffusers' names, with the config that fits them."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]  # of WanTransformer3DModel
    entry: str | None  # of a .pt
    source: str


def load_wan(path: Path, head_dim: int = 128, entry: Entry | None = None) -> CausalWan:
    """Return the transformer in `path` in the file's own precision and eval mode, not configured.

    Raises CheckpointError for all that is not exactly a text-to-video Wan: missing, unexpected or
    misshapen tensors, NaN, another architecture, a damaged file, a pickle with code.
    """
    found = read(path, head_dim, entry)
    with init_empty_weights(include_buffers=False):
        try:
            model = cast(CausalWan, CausalWan.from_config(found.config))
        except Exception as error:  # of whatever class: the sizes are the file's
            raise CheckpointError(f"{found.source}: not a known Wan: {error}") from error
    cure = "it is another architecture, or only a part of one"
    load_strictly(model, found.tensors, found.source, cure)
    return model.eval()


def read(path: Path, head_dim: int = 128, entry: Entry | None = None) -> WanCheckpoint:
    """Return tensors and config of a checkpoint; values are read at first use."""
    with reading(path):
        if path.is_dir() and lora_files.file_in(path) == path:
            return _read_wan_folder(path)
        if (lora := read_lora(path)) is not None:
            lora_files.refuse_without_base(lora)
        if path.suffix == ".safetensors":
            tensors, chosen = _read_safetensors(path), None
        else:
            tensors, chosen = _read_pickle(path, entry)
    source = str(path) if chosen is None else f"{path} [{chosen}]"
    tensors = _in_diffusers_layout(tensors, source)
    return WanCheckpoint(tensors, _config_of(tensors, head_dim, source), chosen, source)


def look_at(path: Path, field: str = FIELD) -> None:
    """Raise CheckpointError for weights that are no plain floats, by headers alone.

    Any other fault is told where the weights are read.
    """
    with reading(path):
        folder = path / "transformer" if (path / "transformer").is_dir() else path
        files = sorted(folder.glob(TENSORS)) if folder.is_dir() else [folder]
        for file in files:
            if file.suffix == ".safetensors":
                packed = stored_dtypes.problem(stored_dtypes.of_safetensors(file), file, field)
            else:
                content = _saved(file)
                states = [v for v in (content, *content.values()) if isinstance(v, Mapping)]
                tensors = {n: t for s in states for n, t in s.items() if isinstance(t, Tensor)}
                packed = stored_dtypes.problem(stored_dtypes.of_tensors(tensors), file, field)
            if packed:
                raise CheckpointError(packed)


def read_lora(path: Path) -> lora_files.LoraFile | None:
    """Return the LoRA in a file or a folder of one; None for anything else that can be read."""
    with reading(path):
        file = lora_files.file_in(path)
        if file.is_dir():
            return None
        if file.suffix == ".safetensors":
            file.stat()
            if not lora_files.is_lora(stored_dtypes.of_safetensors(file)):
                return None
            return lora_files.sort(_read_safetensors(file), file)
        content = _saved(file)
        names = (*lora_files.ENTRIES, *ENTRIES, *BARE_ENTRIES)
        nested = (content[name] for name in names if isinstance(content.get(name), Mapping))
        for state in (*nested, content):
            tensors = {n: t for n, t in state.items() if isinstance(t, Tensor)}
            if lora_files.is_lora(tensors):
                if packed := stored_dtypes.problem(stored_dtypes.of_tensors(tensors), path, FIELD):
                    raise CheckpointError(packed)
                return lora_files.sort(tensors, file)
        return None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises over a user's file into CheckpointError with a cure."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename or path}: there is no such file; nothing is downloaded: put the "
            "weights there, or write where they are in student.checkpoint"
        ) from None
    except Exception as error:  # noqa: BLE001 (a user's file: whatever class a library chooses)
        raise CheckpointError(f"{path}: {_reason(path, error)}") from None  # torch's own advice


def read_folder(path: Path, stock_class: str) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Return config, tensors and source of a diffusers folder or of its `transformer` folder.

    Raises CheckpointError for another class, FileNotFoundError for a missing file.
    """
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    config = json.loads((folder / "config.json").read_text())
    if config.get("_class_name", stock_class) != stock_class:
        raise CheckpointError(f"{folder}: is a {config['_class_name']}, not a {stock_class}")
    tensors: dict[str, Tensor] = {}
    if (folder / INDEX).exists():
        shards = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        if outside := [name for name in shards if Path(name).name != name]:
            raise CheckpointError(f"{folder / INDEX}: names {outside[0]!r}, outside of its folder")
        for shard in sorted(shards):
            tensors |= _read_safetensors(folder / shard)
    else:
        tensors = _read_safetensors(folder / SINGLE)
    return config, tensors, str(folder)


def _read_wan_folder(path: Path) -> WanCheckpoint:
    config, tensors, source = read_folder(path, STOCK_CLASS)
    if any(config.get(key) for key in ("image_dim", "added_kv_proj_dim", "pos_embed_seq_len")):
        raise CheckpointError(f"{source}: is an image-to-video Wan; take a text-to-video one")
    known = {key: config[key] for key in CONFIG if config.get(key) is not None}
    return WanCheckpoint(_in_diffusers_layout(tensors, source), known, None, source)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    path.stat()  # safetensors' own error does not name the missing file
    if packed := stored_dtypes.problem(stored_dtypes.of_safetensors(path), path, FIELD):
        raise CheckpointError(packed)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _saved(path: Path) -> Mapping[str, Any]:
    """Return what torch.save wrote. Only a zip can be mapped; older files load whole."""
    saved = torch.load(
        path, map_location="cpu", weights_only=True, mmap=True if zipfile.is_zipfile(path) else None
    )
    if not isinstance(saved, Mapping):
        raise CheckpointError(f"{path}: holds a {type(saved).__name__}, not named tensors")
    return cast("Mapping[str, Any]", saved)


def _read_pickle(path: Path, entry: Entry | None) -> tuple[dict[str, Tensor], str | None]:
    """Return the tensors of a torch.save file, and the name of their entry."""
    content = _saved(path)
    nested = {name for name, value in content.items() if isinstance(value, Mapping)}
    entries = [entry] if entry else [*ENTRIES, *BARE_ENTRIES]
    chosen = next((name for name in entries if name in nested), None)
    if chosen is None and (entry or nested):
        raise CheckpointError(
            f"{path}: has no {' or '.join(entries)}; it has {sorted(content)[:8]}: write one of "
            "them in student.weights, if it is a generator"
        )
    state = content[chosen] if chosen else content
    if strangers := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path}: {strangers[0]!r} is no tensor")
    if packed := stored_dtypes.problem(stored_dtypes.of_tensors(state), path, FIELD):
        raise CheckpointError(packed)
    return dict(state), chosen


def _in_diffusers_layout(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    bare: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (short := unwrapped(name)) in bare:
            raise CheckpointError(f"{source}: two tensors are called {short} without wrappers")
        bare[short] = tensor
    layout = layout_of(bare)
    if layout is None:
        raise CheckpointError(
            f"{source}: not a Wan transformer: {len(bare)} tensor(s), such as {sorted(bare)[:3]}"
        )
    return to_diffusers(bare) if layout == "original" else bare


def _config_of(tensors: dict[str, Tensor], head_dim: int, source: str) -> dict[str, Any]:
    """Return the sizes that the shapes give; only the number of heads is not among them."""
    try:
        width, channels, *patch = tensors["patch_embedding.weight"].shape
        times = tensors["condition_embedder.time_embedder.linear_1.weight"]
        text = tensors["condition_embedder.text_embedder.linear_1.weight"]
        ffn = tensors["blocks.0.ffn.net.0.proj.weight"]
        out = tensors["proj_out.weight"].shape[0]
        volume = patch[0] * patch[1] * patch[2]
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"{source}: not a whole Wan transformer: {error} is missing"
        ) from None
    if width % head_dim:
        raise CheckpointError(
            f"{source}: a width of {width} does not divide into heads of {head_dim}; "
            "write the right student.head_dim (128 in every published Wan)"
        )
    return {
        "patch_size": list(patch),
        "num_attention_heads": width // head_dim,
        "attention_head_dim": head_dim,
        "in_channels": channels,
        "out_channels": out // volume,
        "text_dim": text.shape[1],
        "freq_dim": times.shape[1],
        "ffn_dim": ffn.shape[0],
        "num_layers": num_layers_of(tensors),
    }


def _reason(path: Path, error: Exception) -> str:
    """Return the reason for a file without tensors.

    torch's own message is not quoted: it advises to run the file's code.
    """
    again = "download or copy it again"
    if isinstance(error, PermissionError):
        return "may not be read: give the user that runs stages the right to"
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(200).lstrip()
    if head.startswith(POINTER):
        return "is a git-LFS pointer, not the weights: run `git lfs pull` where it was cloned"
    if head.startswith(b"<"):
        return f"is a web page, not weights (a login or an error in their place): {again}"
    if not isinstance(error, pickle.UnpicklingError):
        text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        detail = "" if "weights_only" in text else f" ({text})"
        return f"is damaged or cut short: {again}{detail}"
    if found := GLOBAL.search(str(error)):
        return (
            f"holds code or objects other than tensors, such as {found[1]} (refused); convert it "
            "to .safetensors where you trust it"
        )
    return f"is no file of tensors alone, or is damaged or cut short: {again}"
