"""`afd gc`: artifacts that no campaign needs, stale work folders and caches, with their sizes.

Never removed: teacher clips, ledgers, prompts and weights, whichever campaign they are of; what is
removed can be computed again.
"""

import contextlib
import fcntl
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from afd.artifacts import MANIFEST, Artifact
from afd.attempts import flock
from afd.runtime.outcome import RefusedError
from afd.store import Store
from flows.campaign_lock import sure_holder_of
from flows.command_text import command, sibling_program
from flows.commands.consoles import console as stdout_console
from flows.commands.status import campaigns_in
from flows.dvc_tracking import tracked_by
from flows.paths import CampaignPaths
from flows.round_files import read_round

REMOVABLE = ("rollouts", "evaluation", "report")
CACHE = ".cache"


@dataclass(frozen=True)
class Garbage:
    """One folder of a store that no campaign needs."""

    path: Path
    why: str
    num_bytes: int


def collect(runs: Path, store: Path, *, remove: bool, dry_run: bool) -> None:
    """List what no campaign of `runs` needs, and remove it on a person's word.

    `remove`: without asking. Raises RefusedError where it is not known what is needed.
    """
    paths, console = CampaignPaths(runs, store), stdout_console(None)
    found = garbage(paths)
    _list(console, found, paths)
    if dry_run or not found:
        return
    if not remove:
        if not sys.stdin.isatty():
            word = command("gc", "--yes", runs=runs, store=store)
            console.print(f"nothing was removed: `{word}` removes it", soft_wrap=True)
            return
        if console.input("type yes to remove them: ").strip() != "yes":
            console.print("nothing was removed")
            return
    _refuse_running(paths)
    for one in found:
        _remove(one.path)
    size = sum(one.num_bytes for one in found)
    console.print(f"{len(found)} removed, {gigabytes(size)}", highlight=False)


def garbage(paths: CampaignPaths) -> list[Garbage]:
    """Return what no campaign needs; raises RefusedError while one runs, or where none is."""
    if not paths.store.is_dir():
        raise RefusedError(f"{paths.store}: there is no such folder; name the store with --store")
    campaigns = campaigns_in(paths.runs)
    if not campaigns:
        raise RefusedError(
            f"{paths.runs}: no campaign is here, so nothing says what of {paths.store} is "
            "needed; name the folder of its campaigns with --runs"
        )
    _refuse_running(paths)
    store = Store(paths.store.resolve())
    artifacts = {one.manifest.fingerprint: one for one in store.all()}
    needed = _needed(campaigns, artifacts)
    since = _unfinished_since(campaigns)
    found = [
        Garbage(one.path, f"{one.manifest.kind} of no campaign in {paths.runs}", _size(one.path))
        for key, one in artifacts.items()
        if one.manifest.kind in REMOVABLE and key not in needed and _time(one) < since
    ]
    found += _stale_work(store, since)
    cache = store.root / CACHE
    if cache.is_dir() and any(cache.iterdir()):
        found.append(Garbage(cache, "cache, filled again when it is needed", _size(cache)))
    return found


def _needed(campaigns: list[Path], artifacts: dict[str, Artifact]) -> set[str]:
    """Return the fingerprints that rounds name or DVC tracks, and of everything behind them."""
    waiting: list[str] = []
    for folder in campaigns:
        for file in (folder / "rounds").glob("*.json"):
            waiting += [ref.fingerprint for ref in (read_round(file) or {}).values()]
        tracked = {path for file in (folder / "rounds").glob("*.dvc") for path in tracked_by(file)}
        waiting += [key for key, one in artifacts.items() if one.path in tracked]
    needed: set[str] = set()
    while waiting:
        key = waiting.pop()
        if key in needed:
            continue
        needed.add(key)
        if key in artifacts:
            behind = artifacts[key].manifest.made_from.values()
            waiting += [ref.fingerprint for ref in behind]
    return needed


def _unfinished_since(campaigns: list[Path]) -> float:
    """Return the start of the oldest unfinished campaign: rounds do not name all its artifacts."""
    starts = [
        (folder / "params.yaml").stat().st_mtime
        for folder in campaigns
        if not (folder / "rounds" / "final.json").exists()
    ]
    return min(starts, default=float("inf"))


def _time(artifact: Artifact) -> float:
    return datetime.fromisoformat(artifact.manifest.created_at).timestamp()


def _stale_work(store: Store, since: float) -> Iterator[Garbage]:
    """Yield work folders of stages that no process holds and no campaign goes on with."""
    for work in sorted(store.root.glob(".work/*-*")):
        kind, _, name = work.name.rpartition("-")
        is_made = (store.root / kind / name / MANIFEST).is_file()
        if (is_made or work.stat().st_mtime < since) and not _is_locked(work):
            yield Garbage(work, "work of a stage that no campaign goes on with", _size(work))


def _is_locked(work: Path) -> bool:
    for file in [work / "lock", *work.glob("parts/*.lock")]:
        with contextlib.suppress(FileNotFoundError), file.open("rb") as lock:
            try:
                flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def _refuse_running(paths: CampaignPaths) -> None:
    for folder in campaigns_in(paths.runs):
        if (holder := sure_holder_of(folder)) is not None:
            raise RefusedError(f"{folder.name} runs, {holder}: nothing is removed while it does")
    for work in paths.store.glob(".work/*-*"):
        if _is_locked(work):
            raise RefusedError(f"{work}: a process computes it now: nothing is removed meanwhile")


def _remove(path: Path) -> None:
    """Remove a folder, its manifest first: what is cut short here does not exist any more."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)


def _list(console: Console, found: list[Garbage], paths: CampaignPaths) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("size", justify="right")
    table.add_column("folder", overflow="fold")
    table.add_column("why", overflow="fold")
    for one in sorted(found, key=lambda one: -one.num_bytes):
        path = one.path.relative_to(paths.store.resolve())
        table.add_row(gigabytes(one.num_bytes), str(paths.store / path), one.why)
    if found:
        console.print(table)
    needless = sum(one.num_bytes for one in found)
    whole = _size(paths.store)
    console.print(
        f"no campaign of {paths.runs} needs {gigabytes(needless)} of {gigabytes(whole)} in "
        f"{paths.store}; clips, ledgers and weights always stay",
        soft_wrap=True,
        highlight=False,
    )
    copies = paths.store.resolve().parent / ".dvc" / "cache"
    if copies.is_dir():
        console.print(
            f"{copies}: {gigabytes(_size(copies))}, the second copy, which heals a damaged file; "
            f"`{sibling_program('dvc')} gc --workspace --dry` lists what of it no pointer here "
            "names",
            soft_wrap=True,
            highlight=False,
        )


def _size(folder: Path) -> int:
    sizes: list[int] = []
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            stat = file.lstat()
            sizes.append(0 if file.is_dir() and not file.is_symlink() else stat.st_size)
    return sum(sizes)


def gigabytes(num_bytes: int) -> str:
    """ "1.2 GB", or in MB below a tenth of one."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
