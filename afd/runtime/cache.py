"""What can be made again at a price, kept in the store's .cache under all that it depends on.

Like an artifact it is found by its identity, unlike one it may be deleted at any time. An entry's
name carries the sha256 of its bytes: a damaged one is made again.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from afd.fingerprint import fingerprint
from afd.store import Store, write_atomic

LARGEST_ENTRY = 2**30  # bytes: 10 clips of 480p


def kept(
    store: Store,
    room: str,
    identity: Mapping[str, Any],
    make: Callable[[], Mapping[str, Tensor]],
    num_entries: int,
) -> dict[str, Tensor]:
    """The tensors of `identity` out of a room of the cache, which holds `num_entries` of them.

    What is missing or damaged is made, and kept there unless it is too large.
    """
    folder = store.root / ".cache" / room
    name = fingerprint(identity)[:32]
    for file in folder.glob(f"{name}-*.safetensors"):
        with suppress(FileNotFoundError):  # tidied away by somebody just now
            data = file.read_bytes()
            if file.stem.endswith(f"-{_digest(data)}"):
                os.utime(file)  # who tidies goes by age
                return load(data)
    made = dict(make())
    if sum(tensor.nbytes for tensor in made.values()) > LARGEST_ENTRY:
        return made
    # copies: two names may share a tensor, which a file may not
    data = save({key: tensor.clone().contiguous() for key, tensor in made.items()})
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{name}-{_digest(data)}.safetensors", data)
    _tidy(folder, num_entries)
    return made


def _tidy(folder: Path, num_entries: int) -> None:
    """Only what was read last stays; two processes may tidy at once."""
    with suppress(FileNotFoundError):
        files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        for old in files[:-num_entries]:
            old.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
