"""Cache of computed tensors in the store, keyed by everything that they depend on.

An entry is found by its identity like an artifact, but it may be deleted at any time. Its name
carries the sha256 of its bytes: a damaged entry is computed again.
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


def cached(
    store: Store,
    room: str,
    identity: Mapping[str, Any],
    make: Callable[[], Mapping[str, Tensor]],
    num_entries: int,
) -> dict[str, Tensor]:
    """Return the tensors of `identity` from the folder `room` of at most `num_entries` entries.

    A missing or damaged entry is made, and saved unless it is larger than LARGEST_ENTRY.
    """
    folder = store.root / ".cache" / room
    name = fingerprint(identity)[:32]
    for file in folder.glob(f"{name}-*.safetensors"):
        with suppress(FileNotFoundError):  # deleted by another process just now
            data = file.read_bytes()
            if file.stem.endswith(f"-{_digest(data)}"):
                os.utime(file)  # the oldest entries are deleted first
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
    """Keep the entries read last; two processes may delete at once."""
    with suppress(FileNotFoundError):
        files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
        for old in files[:-num_entries]:
            old.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
