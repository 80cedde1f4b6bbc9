"""Artifact store on disk: paths, atomic saving, checked loading.

    <root>/<kind>/<fingerprint[:16]>/          one finished artifact, manifest.json written last
    <root>/.work/<kind>-<fingerprint[:16]>/    unfinished: lock, batches/, progress.json
        attempts/0001/                         one attempt's own out/ and checkpoints/
    <root>/clips/                              teacher videos, append-only, paid once

An artifact is built in .work, every file is fsynced, the manifest is written, and one rename makes
it visible. A kill at any moment leaves either no artifact or a whole one.

afd/attempts.py decides which process may build it.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError

from afd.artifacts import MANIFEST, Artifact, ArtifactRef, FileEntry, Manifest
from afd.attempts import Attempt, StoreError, begun, flock, locked, refuse_cancelled
from afd.failpoints import failpoint

DISK_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the quota is used up; free some space",
    errno.ENOTDIR: "a file stands where a folder is needed; move it",
    errno.EROFS: "the file system is read-only; mount it writable or choose another store",
    errno.EACCES: "permission denied; make it writable or choose another store",
    errno.EPERM: "permission denied; make it writable or choose another store",
}


class Store:
    """Folder of artifacts, shared by processes; one process at a time makes an artifact."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, ref: ArtifactRef) -> Path:
        """Return the artifact's folder."""
        return self.root / ref.kind / ref.fingerprint[:16]

    def work_path(self, ref: ArtifactRef) -> Path:
        """Return the folder of unfinished attempts at an artifact."""
        return self.root / ".work" / f"{ref.kind}-{ref.fingerprint[:16]}"

    @property
    def clips(self) -> Path:
        """Teacher videos: append-only, outside every artifact, never deleted by any stage."""
        return self.root / "clips"

    def have(self, ref: ArtifactRef) -> bool:
        """Return True when the artifact is finished."""
        return (self.path(ref) / MANIFEST).is_file()

    def load(self, ref: ArtifactRef, *, verify: bool = False) -> Artifact:
        """Load a finished artifact; sizes are always compared, hashes with `verify`.

        Raises StoreError naming the file that is missing or differs.
        """
        path = self.path(ref)
        try:
            manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
        except FileNotFoundError:
            raise StoreError(f"{path}: not made yet, or only half of it was copied here") from None
        except ValidationError as error:
            wrong = error.errors()[0]["msg"]
            raise StoreError(
                f"{path / MANIFEST}: not a manifest: {wrong}; {damage_cure(path)}"
            ) from None
        if manifest.fingerprint != ref.fingerprint or manifest.kind != ref.kind:
            raise StoreError(
                f"{path}: holds {manifest.kind} {manifest.fingerprint[:16]}, "
                f"not {ref.kind} {ref.fingerprint[:16]}; {damage_cure(path)}"
            )
        for name, entry in manifest.files.items():
            _check(path / name, entry, path, content=verify)
        return Artifact(path, manifest)

    def save(self, ref: ArtifactRef, manifest: Manifest, attempt: Attempt) -> Artifact:
        """Publish the files in `attempt.out` under `manifest` (its `files` are filled in here).

        Raises LostError when a later attempt has begun and has not finished, or when this one was
        cancelled.
        """
        out = attempt.out
        with disk_errors(self.root):
            files: dict[str, FileEntry] = {}
            for file in sorted(p for p in out.rglob("*") if p.is_file() and p.name != MANIFEST):
                files[file.relative_to(out).as_posix()] = _synced(file)
                failpoint("store.file_synced")
            manifest = manifest.model_copy(update={"files": files})
            failpoint("store.before_manifest")
            write_atomic(out / MANIFEST, manifest.model_dump_json(indent=1).encode())
            failpoint("store.before_publish")
            path = self.path(ref)
            path.parent.mkdir(parents=True, exist_ok=True)
            attempt.check()
            refuse_cancelled()
            if path.exists() and not (path / MANIFEST).exists():
                shutil.rmtree(path)  # half a copy from elsewhere; no attempt leaves one
            try:
                out.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            sync_folder(path.parent)
            failpoint("store.after_publish")
        return self.load(ref)

    @contextlib.contextmanager
    def attempt(self, ref: ArtifactRef) -> Iterator[Attempt]:
        """Hold the right to make `ref`, until a later attempt begins.

        The lock ends with its process, so a killed attempt never blocks the next one. The work
        folder stays until the artifact is published. Raises BusyError; every error after the begin
        of a later attempt becomes a LostError.
        """
        work = self.work_path(ref)
        with disk_errors(self.root):
            lock, attempt = begun(work)
        with lock:
            try:
                yield attempt
            except Exception:
                attempt.check()  # a later one may have removed files of this one
                raise
            if self.have(ref):
                shutil.rmtree(work, ignore_errors=True)

    @contextlib.contextmanager
    def part(self, ref: ArtifactRef, name: str) -> Iterator[Path]:
        """Hold the right to compute one part of `ref`; yield the work folder. Raises BusyError."""
        work = self.work_path(ref)
        with disk_errors(self.root):
            lock = locked(work / "parts", f"{name}.lock")
        with lock:
            yield work

    def tidy(self) -> None:
        """Remove work folders whose artifact was published just before a kill."""
        for work in self.root.glob(".work/*-*"):
            kind, _, name = work.name.rpartition("-")
            if not (self.root / kind / name / MANIFEST).is_file():
                continue
            # Held by another process, or removed by it just before us.
            with (
                contextlib.suppress(BlockingIOError, FileNotFoundError),
                (work / "lock").open("a+b") as lock,
            ):
                flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(work, ignore_errors=True)

    def all(self) -> Iterator[Artifact]:
        """Yield every finished artifact."""
        for manifest in sorted(self.root.glob(f"*/*/{MANIFEST}")):
            with contextlib.suppress(ValidationError):
                parsed = Manifest.model_validate_json(manifest.read_bytes())
                yield Artifact(manifest.parent, parsed)

    def find(self, prefix: str) -> list[Artifact]:
        """Return the artifacts whose fingerprint starts with `prefix`."""
        return [found for found in self.all() if found.manifest.fingerprint.startswith(prefix)]


def write_atomic(path: Path, content: bytes) -> None:
    """Write a whole file or none: temporary file beside it, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")  # threads, hosts
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, atomically; raises ValueError for NaN."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False).encode())


def sync_folder(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn disk errors into StoreError with a cure; published artifacts stay untouched."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = disk_error(error)
        if number not in DISK_REASONS:
            raise
        file = error.filename if isinstance(error, OSError) else None
        cure = f"Everything finished is kept in {root}; run the same command again to go on"
        raise StoreError(
            f"{file or root}: {DISK_REASONS[number]}. "
            + (cure if root.is_dir() else "Nothing was started")
        ) from error


def disk_error(error: OSError | SafetensorError) -> int | None:
    """Return the errno of a disk error; safetensors writes the number into its text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def _synced(file: Path) -> FileEntry:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        os.fsync(stream.fileno())
    return FileEntry(num_bytes=file.stat().st_size, sha256=digest.hexdigest())


def _check(file: Path, entry: FileEntry, artifact: Path, *, content: bool) -> None:
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise StoreError(f"{file}: missing; {damage_cure(artifact)}") from None
    if size != entry.num_bytes:
        raise StoreError(f"{file}: {size} bytes, not {entry.num_bytes}; {damage_cure(artifact)}")
    if content and _synced(file).sha256 != entry.sha256:
        raise StoreError(f"{file}: its sha256 is not the manifest's; {damage_cure(artifact)}")


def damage_cure(artifact: Path) -> str:
    """Return what to do about a damaged artifact; `dvc pull` refuses over a damaged file."""
    is_tracked = any((folder / ".dvc").is_dir() for folder in artifact.resolve().parents)
    pulls = "`dvc pull` restores it or " if is_tracked else ""
    return (
        f"move {artifact} away, then {pulls}`afd resume NAME` makes it anew (teacher videos in "
        "clips/ are not paid again)"
    )
