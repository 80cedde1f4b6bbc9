"""DVC tracking of the artifacts of every round; no other module calls dvc.

One .dvc file a round, runs/<campaign>/rounds/<name>.dvc, with one out for each artifact that
the round made: about 50 ms a round, flat, while a file a stage costs 9 ms more with every stage
already there. Jobs never call dvc: the process that holds the campaign does, the one writer.

Artifacts are copied into dvc's cache (or reflinked, where the file system can) and never relinked:
a stage may be reading them at this very moment.
"""

import contextlib
import logging
import os
import shlex
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from afd.artifacts import MANIFEST, Artifact
from afd.config import Params
from afd.params import load_params
from afd.store import StoreError
from flows.dvc_locks import explain, release_dead_writers
from flows.library_env import quieten_dvc

if TYPE_CHECKING:
    from dvc.repo import Repo

log = logging.getLogger(__name__)
# Two campaigns of one clone may want dvc at once; a round of some hundred MB takes seconds.
LOCK_PATIENCE_S = 120.0
_one_at_a_time = threading.RLock()


class TrackingError(StoreError):
    """DVC could not track a round: the text has the reason, what is kept and the cure."""


def track(campaign_dir: Path, name: str, artifacts: Sequence[Artifact]) -> Path | None:
    """Put `artifacts` under <campaign_dir>/rounds/<name>.dvc and into dvc's cache.

    An artifact that another .dvc file already tracks (a shared warm start) stays with its owner,
    with one warning where it is another campaign's.
    Calling it again with the same artifacts changes nothing. Returns the .dvc file, or None where
    there is no dvc repository (one warning) or nothing is left to track. Raises TrackingError.
    """
    root = _root_of(campaign_dir)
    if root is None:
        return None
    file = campaign_dir.resolve() / "rounds" / f"{name}.dvc"
    wanted = {path for artifact in artifacts if (path := _inside(root, artifact.path)) is not None}
    with _one_at_a_time:
        outs = _unowned(root, file, wanted)
        if _is_tracked(file, outs):
            return file if outs else None
        file.parent.mkdir(parents=True, exist_ok=True)
        with _writing(root) as repo:
            # Again, now that nobody else writes: a campaign beside this one may have become the
            # owner meanwhile, and of two owners dvc refuses to read anything.
            outs = _unowned(root, file, wanted)
            if file.exists() and (not outs or not tracked_by(file)):
                file.unlink()  # all of it is another's, or it was cut short by a kill
            if not outs:
                return None
            stage: Any = repo.stage.create(
                single_stage=True,
                validate=False,  # ownership was just decided; dvc's own check reads every file
                fname=str(file),
                wdir=str(root),
                outs=[str(out) for out in outs],
                force=True,
            )
            stage.add_outs(relink=False)
            stage.dump()
        os.utime(file)  # dvc leaves a file of the same content alone; it was looked at now
    return file


def digest(artifact: Artifact) -> str:
    """Return DVC's md5 of the artifact's folder, `<md5>.dir`, as its .dvc file has it.

    Nothing is written but dvc's table of file hashes, which makes the later `track` fast.
    """
    from dvc_data.hashfile.build import build

    quieten_dvc()
    with _one_at_a_time:
        root = _root_of(artifact.path)
        if root is None:
            odb, file_system = _nowhere()
        else:
            repo = _repo(root)
            odb, file_system = repo.cache.local, repo.fs
        _, _, tree = build(odb, str(artifact.path.resolve()), file_system, "md5", dry_run=True)
    return str(tree.hash_info.value)


def commit_pipeline(campaign_dir: Path, params: Params) -> bool:
    """Commit this finished campaign as its stage of dvc.yaml: `dvc repro` computes nothing.

    The stage is the one of the campaign's name; nothing is written where there is none, where its
    --params are other ones, or inside `dvc repro` itself. Returns whether dvc.lock was written.
    """
    root, name = _root_of(campaign_dir), campaign_dir.name
    if root is None or "DVC_STAGE" in os.environ or not (root / "dvc.yaml").exists():
        return False
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())
    stage = pipeline.get("stages", {}).get(name)
    if stage is None or campaign_dir.resolve() != root / "runs" / name:
        return False
    words = shlex.split(stage["cmd"])
    if "--params" not in words[:-1]:
        return False
    if load_params(Params, root / words[words.index("--params") + 1]) != params:
        return False
    with _one_at_a_time, _writing(root) as repo:
        file = str(root / "dvc.yaml")  # dvc takes a relative one from the working directory
        if repo.stage.load_one(file, name).changed_entries() == ([], [], None):
            return False
        repo.commit(f"{file}:{name}", force=True, relink=False)
    return True


@contextlib.contextmanager
def _writing(root: Path) -> Iterator["Repo"]:
    """Yield the repository, locked for one writer; raises TrackingError."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import lock_repo

    repo = _repo(root)
    deadline = time.monotonic() + LOCK_PATIENCE_S
    try:
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(lock_repo(repo))  # dvc's own: its commands may nest in it
                    break
                except LockError:
                    if time.monotonic() > deadline:
                        raise
            release_dead_writers(root)
            yield repo
    except (DvcException, OSError) as error:
        raise TrackingError(
            f"dvc could not keep this round in {root / '.dvc'}: {error}. The artifacts themselves "
            f"are finished and kept in the store; run the same command again to go on"
            f"{explain(root)}"
        ) from error


def _unowned(root: Path, file: Path, wanted: set[Path]) -> list[Path]:
    """Return the paths of `wanted` that no other .dvc file tracks; warn once of the owners."""
    others = sorted(file.parent.parent.parent.glob("*/rounds/*.dvc"))
    taken = {path: other for other in others if other != file for path in tracked_by(other)}
    _warn_of_owners(root, file, {path: taken[path] for path in sorted(wanted & taken.keys())})
    return sorted(wanted - taken.keys())


def _is_tracked(file: Path, outs: Sequence[Path]) -> bool:
    """Return whether nothing is left to write."""
    return _is_current(file, outs) if file.exists() else not outs


def _is_current(file: Path, outs: Sequence[Path]) -> bool:
    """Return whether the .dvc file names exactly these artifacts and is newer than them."""
    looked_at = file.stat().st_mtime_ns
    return tracked_by(file).keys() == set(outs) and all(
        (out / MANIFEST).stat().st_mtime_ns <= looked_at for out in outs
    )


def _warn_of_owners(root: Path, file: Path, owners: Mapping[Path, Path]) -> None:
    """Warn once for each other campaign's file that tracks an artifact of this one."""
    for owner in sorted({owner for owner in owners.values() if owner.parent != file.parent}):
        names = [str(path.relative_to(root)) for path in owners if owners[path] == owner]
        campaign = owner.parent.parent.name
        _warn_once(
            f"{', '.join(names)}: tracked by campaign {campaign!r} already, so it stays in "
            f"{owner.relative_to(root)}"
        )


def tracked_by(file: Path) -> Mapping[Path, str]:
    """Return the paths of a .dvc file, with their digests (0.3 ms; dvc's own index takes 5).

    A file that was cut short by a kill tracks nothing: it is written anew.
    """
    stamp = file.stat()
    return _read_outs(file, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=4096)
def _read_outs(file: Path, _modified: int, _size: int) -> Mapping[Path, str]:
    try:
        content = yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader)
        folder = file.parent / content["wdir"]
        outs = {
            Path(os.path.normpath(folder / out["path"])): str(out["md5"]) for out in content["outs"]
        }
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError):
        log.warning("%s: cut short; it is written anew by the campaign that it belongs to", file)
        return {}
    return outs


def _root_of(folder: Path) -> Path | None:
    """Return the dvc repository around `folder`; None, with one warning, where there is none."""
    at = folder.resolve()
    for candidate in (at, *at.parents):
        if (candidate / ".dvc" / "config").is_file():
            return candidate
    _warn_once(f"no dvc repository around {at.parents[1]}: rounds are kept in the store only")
    return None


@cache
def _warn_once(message: str) -> None:
    log.warning(message)


@cache
def _repo(root: Path) -> "Repo":
    from dvc.repo import Repo
    from dvc.scm import SCMError

    quieten_dvc()
    try:
        return Repo(str(root))
    except SCMError:
        log.warning(
            "%s: no git repository here, so nothing keeps the .dvc files that are written", root
        )
        return Repo(str(root), config={"core": {"no_scm": True}})


@cache
def _nowhere() -> tuple[Any, Any]:
    """Return a cache and a file system for hashing outside any repository."""
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem
    from dvc_objects.fs.memory import MemoryFileSystem

    return HashFileDB(MemoryFileSystem(global_store=False), "memory://digests"), LocalFileSystem()


def _inside(root: Path, path: Path) -> Path | None:
    """`path`, resolved; None, with a warning, for a store outside the repository."""
    resolved = path.resolve()
    if resolved.is_relative_to(root):
        return resolved
    _warn_once(f"{resolved.parents[1]} lies outside {root}: dvc tracks nothing in it")
    return None
