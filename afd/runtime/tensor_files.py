"""Atomic safetensors files: checkpoints, and batches of a splittable stage.

A file's name ends in the sha256 of its bytes, so damage is found before anything is loaded; its
metadata holds a JSON note. Nothing is pickled.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afd.failpoints import failpoint
from afd.store import sync_folder

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(folder: Path, name: str, tensors: Mapping[str, "Tensor"], note: str) -> Path:
    """Write `<name>-<sha256[:16]>.safetensors` with a note, atomically; return its path."""
    from safetensors.torch import save_file

    temporary = folder / f".{name}.{uuid.uuid4().hex}.tmp"  # two hosts may share a folder
    try:
        save_file(
            {key: tensor.detach().contiguous() for key, tensor in tensors.items()},
            temporary,
            metadata={"afd": note},
        )
        digest = _digest(temporary, sync=True)
        failpoint("checkpoint.before_rename")
        file = temporary.rename(folder / f"{name}-{digest[:16]}.safetensors")
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    failpoint("checkpoint.after_rename")
    return file


def read_tensors(file: Path) -> tuple[dict[str, Any], dict[str, "Tensor"]] | None:
    """Read a file of `write_tensors` as (note, tensors); None for a missing or damaged file."""
    from safetensors import safe_open

    try:
        if _digest(file)[:16] != file.stem.rsplit("-", 1)[-1]:
            return None
    except FileNotFoundError:  # pruned, just now, by the attempt that left it
        return None
    with safe_open(file, framework="pt") as opened:  # type: ignore[no-untyped-call]
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return json.loads(opened.metadata()["afd"]), tensors


def _digest(file: Path, *, sync: bool = False) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        if sync:
            os.fsync(stream.fileno())
    return digest.hexdigest()
