"""The append-only library of paid clips in `<store>/clips`, each with its provenance.

    clips/<key[:2]>/<key>.<sha256[:16]>.mp4     the file as it was delivered
    clips/<key[:2]>/<key>.<sha256[:16]>.json    its provenance: prompt, model, cost, ...

The mp4 is written last, so a clip in the library is whole. If the ledger is lost, no clip of the
library is paid twice. No code of this project deletes from here.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from afd.failpoints import failpoint
from afd.store import Store, StoreError, sync_folder, write_atomic

DIGITS = 16  # of the sha256, in the file's name
_BLOCK = 1 << 20


@dataclass(frozen=True)
class StoredClip:
    """One clip of the library."""

    key: str
    path: Path

    @property
    def note(self) -> Path:
        """The JSON file with the clip's provenance."""
        return self.path.with_suffix(".json")

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance; {} if its file is missing. Raises StoreError for an unreadable file."""
        try:
            content = json.loads(self.note.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise _broken(self.note, str(error)) from None
        if not isinstance(content, dict):
            raise _broken(self.note, "no JSON object")
        return cast("dict[str, Any]", content)

    def restate(self, changes: Mapping[str, Any]) -> bool:
        """Change fields of the provenance and move their old values to `earlier`.

        Return True if a value changed.
        """
        provenance = self.provenance
        before = {name: provenance.get(name) for name in changes}
        if before == dict(changes):
            return False
        earlier = [*provenance.get("earlier", []), before]
        write_atomic(self.note, _as_note(provenance | dict(changes) | {"earlier": earlier}))
        return True

    def read(self) -> bytes:
        """Return the clip's bytes. Raises StoreError if they differ from those that were paid."""
        clip = self.path.read_bytes()
        if not self.path.stem.endswith(f".{hashlib.sha256(clip).hexdigest()[:DIGITS]}"):
            raise damaged_clip_error(self.path)
        return clip


def add_file(store: Store, key: str, file: Path, provenance: Mapping[str, Any]) -> StoredClip:
    """Move a complete file into the library under `key`; an existing clip stays unchanged.

    `file` must be on the store's own disk. `provenance` must be JSON.
    """
    digest = _sha256(file)
    path = clip_path(store, key, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_atomic(path.with_suffix(".json"), _as_note(provenance))
        with file.open("rb") as written:
            os.fsync(written.fileno())
        failpoint("harvest.before_keep")
        file.rename(path)
        sync_folder(path.parent)
    else:
        file.unlink()
    return StoredClip(key, path)


def add_bytes(store: Store, key: str, clip: bytes, provenance: Mapping[str, Any]) -> StoredClip:
    """Write a clip that is in memory into the library under `key`."""
    path = clip_path(store, key, hashlib.sha256(clip).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.with_suffix(".json").exists():
        write_atomic(path.with_suffix(".json"), _as_note(provenance))
    if not path.exists():
        write_atomic(path, clip)
    return StoredClip(key, path)


def clip_path(store: Store, key: str, sha256: str) -> Path:
    """Return the path of a clip with this key and content."""
    return store.clips / key[:2] / f"{key}.{sha256[:DIGITS]}.mp4"


def find_clip(store: Store, key: str) -> StoredClip | None:
    """Return the clip of this key, or None. Raises StoreError if all its files have changed."""
    found = sorted((store.clips / key[:2]).glob(f"{key}.*.mp4"))
    for path in found:
        if path.stem.endswith(f".{_sha256(path)[:DIGITS]}"):
            return StoredClip(key, path)
    if found:
        raise damaged_clip_error(found[0])
    return None


def clip_paths(store: Store) -> dict[str, Path]:
    """Return key -> file of the whole library, from names alone: 100,000 files in a second."""
    return {path.name.partition(".")[0]: path for path in _files(store.clips)}


def content_digests(paths: Mapping[str, Path]) -> dict[str, str]:
    """Return key -> the first 16 digits of the clip's sha256, by the names of `paths`."""
    return {key: path.stem.rpartition(".")[2] for key, path in paths.items()}


def damaged_clip_error(path: Path) -> StoreError:
    """Return the error for a clip whose bytes differ from those that were paid."""
    return StoreError(
        f"{path}: a paid teacher video has changed on disk. Restore it from a backup; only if it "
        f"is lost for good, `rm {path}` and, of a clip that was ordered, `afd harvest resolve "
        f"{path.name[:12]} --lost`; then run the same command again to pay for it once more"
    )


def _broken(note: Path, why: str) -> StoreError:
    return StoreError(
        f"{note}: cannot be read ({why}); the clip beside it is whole and kept. Restore the note "
        "from a backup, or `afd harvest verify --mend` writes it anew from what packs, shards and "
        "the ledger know"
    )


def _as_note(provenance: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(provenance), indent=1, allow_nan=False, ensure_ascii=False).encode()


def _files(clips: Path) -> Iterator[Path]:
    if clips.is_dir():
        for folder in os.scandir(clips):
            if folder.is_dir(follow_symlinks=False):
                for entry in os.scandir(folder.path):
                    if entry.name.endswith(".mp4") and not entry.name.startswith("."):
                        yield Path(entry.path)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
