"""Where paid clips stand for ever: `<store>/clips`, append-only, each with what is known about it.

    clips/<key[:2]>/<key>.<sha256[:16]>.mp4     the file as it was delivered
    clips/<key[:2]>/<key>.<sha256[:16]>.json    its provenance: prompt, model, cost, ...

The mp4 comes last: a clip that stands here is whole, and the ledger may be lost without paying
twice. Nothing of this project deletes from here.
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
    """One clip of the vault."""

    key: str
    path: Path

    @property
    def note(self) -> Path:
        """Its provenance, as a file."""
        return self.path.with_suffix(".json")

    @property
    def provenance(self) -> dict[str, Any]:
        """What was written beside it; {} where nothing is. Raises StoreError for a broken note."""
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
        """Write what is known anew into its note; what it said before is kept in there.

        Gives whether anything changed.
        """
        said = self.provenance
        before = {name: said.get(name) for name in changes}
        if before == dict(changes):
            return False
        earlier = [*said.get("earlier", []), before]
        write_atomic(self.note, _as_note(said | dict(changes) | {"earlier": earlier}))
        return True

    def read(self) -> bytes:
        """Its bytes. Raises StoreError when they are not those that were paid."""
        clip = self.path.read_bytes()
        if not self.path.stem.endswith(f".{hashlib.sha256(clip).hexdigest()[:DIGITS]}"):
            raise damaged_clip_error(self.path)
        return clip


def add_file(store: Store, key: str, file: Path, provenance: Mapping[str, Any]) -> StoredClip:
    """Move a whole file, already on the disk, into the vault under `key`; a kept one stays.

    `file` must stand on the store's own disk. `provenance` must be JSON.
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
    """The same for a clip that was filmed here and stands on no disk yet."""
    path = clip_path(store, key, hashlib.sha256(clip).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.with_suffix(".json").exists():
        write_atomic(path.with_suffix(".json"), _as_note(provenance))
    if not path.exists():
        write_atomic(path, clip)
    return StoredClip(key, path)


def clip_path(store: Store, key: str, sha256: str) -> Path:
    """Where a clip of this key and content stands."""
    return store.clips / key[:2] / f"{key}.{sha256[:DIGITS]}.mp4"


def find_clip(store: Store, key: str) -> StoredClip | None:
    """The clip of this key, or None. Raises StoreError where all its files have changed."""
    found = sorted((store.clips / key[:2]).glob(f"{key}.*.mp4"))
    for path in found:
        if path.stem.endswith(f".{_sha256(path)[:DIGITS]}"):
            return StoredClip(key, path)
    if found:
        raise damaged_clip_error(found[0])
    return None


def clip_paths(store: Store) -> dict[str, Path]:
    """Key -> file of everything in the vault, by names alone: a hundred thousand in a second."""
    return {path.name.partition(".")[0]: path for path in _files(store.clips)}


def content_digests(kept: Mapping[str, Path]) -> dict[str, str]:
    """Key -> the head of its clip's sha256, which its name ends with; `kept` are `kept_keys`."""
    return {key: path.stem.rpartition(".")[2] for key, path in kept.items()}


def damaged_clip_error(path: Path) -> StoreError:
    """The error of a clip whose bytes are not those that were paid."""
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
