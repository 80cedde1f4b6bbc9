"""Content hashes of files and folders, for weights identified by content.

Hashing 20 GB takes half a minute, so the user's cache folder holds each file's hash by path, size
and time of change; without that cache only time is lost.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path


def content_sha256(path: Path | str, parts: tuple[str, ...] = ()) -> str:
    """Return the sha256 of a file, or of all files of a folder with their names.

    `parts` restricts a folder to these entries; hidden entries (.cache, .git) never count. Raises
    FileNotFoundError naming the missing path.
    """
    root, files = place(path), content_files(path, parts)
    if files == [root]:
        return _file_sha256(root)
    lines = [f"{_file_sha256(file)}  {file.relative_to(root).as_posix()}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def content_files(path: Path | str, parts: tuple[str, ...] = ()) -> list[Path]:
    """Return the file at `path`, or the counted files of a folder in order, without reading.

    Raises FileNotFoundError or PermissionError naming the path.
    """
    root = place(path)
    root.stat()
    tops = [root / part for part in parts] if parts and not root.is_file() else [root]
    for top in tops:
        top.stat()
    files = sorted(
        file
        for top in tops
        for file in ([top] if top.is_file() else top.rglob("*"))
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(root).parts)
    )
    if not files:
        raise FileNotFoundError(2, "holds no files", str(root))
    for file in files:
        if not os.access(file, os.R_OK):
            raise PermissionError(13, "Permission denied", str(file))
    return files


def place(path: Path | str) -> Path:
    """Return a path as given, or a hub name ("Wan-AI/Wan2.1-T2V-14B-Diffusers") in the local cache.

    Nothing is downloaded: a name that the cache lacks comes back as given.
    """
    given = Path(path)
    if given.exists() or given.is_absolute() or len(given.parts) != 2:
        return given
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    cached = hub / f"models--{'--'.join(given.parts)}"
    with suppress(OSError):
        revision = (cached / "refs" / "main").read_text().strip()
        if (cached / "snapshots" / revision).is_dir():
            return cached / "snapshots" / revision
    return given


def _file_sha256(file: Path) -> str:
    there = file.stat()
    key = f"{file.resolve()} {there.st_size} {there.st_mtime_ns}"
    known = _remembered()
    if key not in known:
        with file.open("rb") as stream:
            known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        _remember(known)
    return known[key]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "afd" / "content-sha256.json"


def _remembered() -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads(_cache().read_text())
        if isinstance(found, dict):
            return {str(k): str(v) for k, v in found.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return {}


def _remember(known: dict[str, str]) -> None:
    with suppress(OSError):  # a full or read-only home costs hashing again
        _cache().parent.mkdir(parents=True, exist_ok=True)
        temporary = _cache().with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(known))
        temporary.rename(_cache())
