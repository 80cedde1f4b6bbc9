"""Number formats of stored tensors: plain floats load, any other one is named and refused.

fp8 files and quantised ones keep their scales elsewhere or nowhere: read as they stand they are
other weights, and torch has no arithmetic for most of them.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Names in a safetensors header that torch calls otherwise.
_TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def of_safetensors(file: Path) -> dict[str, str]:
    """Return the dtype of every tensor by torch's name; reads the header alone."""
    with safe_open(file, framework="pt") as opened:
        return {
            name: _TORCH_NAMES.get(stored := str(opened.get_slice(name).get_dtype()), stored)
            for name in opened.keys()  # noqa: SIM118 (no mapping)
        }


def of_tensors(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the dtype of every tensor, with its layout where that is none of plain rows."""
    return {
        name: str(tensor.dtype).removeprefix("torch.")
        + ("" if tensor.layout == torch.strided else f" {tensor.layout}".replace("torch.", ""))
        for name, tensor in tensors.items()
    }


def problem(dtypes: Mapping[str, str], source: Path | str, field: str) -> str | None:
    """Return the refusal of weights that are no plain floats, or None; `field` names the file."""
    plain = {str(dtype).removeprefix("torch.") for dtype in PLAIN}
    packed = sorted(
        name
        for name, dtype in dtypes.items()
        if dtype not in plain and not name.endswith(".alpha")  # of a LoRA: a number, no weights
    )
    if not packed:
        return None
    found = ", ".join(sorted({dtypes[name] for name in packed}))
    return (
        f"{source}: {len(packed)} tensor(s) are stored as {found}, such as {packed[0]}: no plain "
        "floats, and nothing was loaded; take the float32, bfloat16 or float16 file of the same "
        f"weights (the one this was made from) and write its path in {field}"
    )
