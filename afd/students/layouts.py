"""Tensor names of a Wan transformer in its two layouts: the original's and diffusers'.

Only names differ between the layouts, so both directions are exact.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor

Layout = Literal["original", "diffusers"]
# Added by data parallelism, compilation, checkpointing, and in the state of a saved wrapper.
WRAPPERS = frozenset(
    {
        "model",
        "module",
        "generator",
        "diffusion_model",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_orig_mod",
    }
)
_ENDS = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
}
_ATTENTIONS = {"self_attn": "attn1", "cross_attn": "attn2"}
_LINEARS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}


def names(num_layers: int) -> dict[str, str]:
    """Return diffusers' name of every tensor of a text-to-video Wan, by the original's name."""
    pairs = {"head.modulation": "scale_shift_table", **_both(_ENDS)}
    for layer in range(num_layers):
        block = {f"ffn.{place}": f"ffn.net.{name}" for place, name in ((0, "0.proj"), (2, "2"))}
        block["norm3"] = "norm2"  # the original counts the norm before cross-attention last
        inside = {"modulation": "scale_shift_table"}
        for ours, theirs in _ATTENTIONS.items():
            block |= {f"{ours}.{name}": f"{theirs}.{to}" for name, to in _LINEARS.items()}
            inside |= {f"{ours}.{n}.weight": f"{theirs}.{n}.weight" for n in ("norm_q", "norm_k")}
        inside |= _both(block)
        pairs |= {f"blocks.{layer}.{old}": f"blocks.{layer}.{new}" for old, new in inside.items()}
    return pairs


def unwrapped(name: str) -> str:
    """Return a tensor's name without the wrappers around it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def layout_of(tensor_names: Iterable[str]) -> Layout | None:
    """Return the layout of these (unwrapped) names; None for neither."""
    found = set(tensor_names)
    if "head.head.weight" in found or any(".self_attn." in name for name in found):
        return "original"
    if "proj_out.weight" in found or any(".attn1." in name for name in found):
        return "diffusers"
    return None


def num_layers_of(tensor_names: Iterable[str]) -> int:
    """Return one more than the highest block number among these names."""
    places = [name.split(".")[1] for name in tensor_names if name.startswith("blocks.")]
    return 1 + max((int(place) for place in places if place.isdecimal()), default=-1)


def to_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename from the original's layout; a name that is none of Wan's stays."""
    table = names(num_layers_of(tensors))
    return {table.get(name, name): tensor for name, tensor in tensors.items()}


def to_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename from diffusers' layout; a name that is none of Wan's stays."""
    table = {new: old for old, new in names(num_layers_of(tensors)).items()}
    return {table.get(name, name): tensor for name, tensor in tensors.items()}


def _both(modules: Mapping[str, str]) -> dict[str, str]:
    return {
        f"{old}.{kind}": f"{new}.{kind}"
        for old, new in modules.items()
        for kind in ("weight", "bias")
    }
