"""Git and DVC checks of `afd doctor`: the commit, uncommitted code, stale locks."""

import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from afd.version import CODE, NoCommit, commit_of, git_reason
from flows import dvc_locks
from flows.command_text import sibling_program
from flows.commands.doctor_cluster import Finding

TIMEOUT_S = 20
# A campaign writes these: uncommitted ones are results, and the commit still names the code.
RESULTS = ("dvc.lock", "runs", "results", "docs")


def git_findings(folder: Path) -> Iterator[Finding]:
    """Check the commit of `folder`, and uncommitted code or results."""
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no").splitlines()
    except FileNotFoundError:
        yield Finding("git", "warning", f"git is not installed: {_in_manifests()}")
        return
    except subprocess.CalledProcessError as error:
        found = git_reason(folder, str(error.stderr), error.returncode)
        yield Finding("git", "warning", f"{found}; {_in_manifests()}")
        return
    names = [line[2:].strip() for line in changed]
    code = [name for name in names if name.split("/")[0] not in RESULTS]
    results = [name for name in names if name not in code]
    found = revision[:10]
    if code:
        more = f" and {len(code) - 1} more" if code[1:] else ""
        found += f", with uncommitted changes: {code[0]}{more}"
    if results:
        more = f" and {len(results) - 1} more" if results[1:] else ""
        found += f"; results to commit: {results[0]}{more}"
    commit = commit_of(CODE)
    if isinstance(commit, NoCommit) or not revision.startswith(commit.sha):
        found += f"; {_in_manifests()}"
    yield Finding("git", "warning" if code or isinstance(commit, NoCommit) else "ok", found)


def dvc_findings(folder: Path) -> Iterator[Finding]:
    """Check the DVC repository in `folder`, and its locks."""
    if not (folder / ".dvc" / "config").exists():
        start = f"`{sibling_program('dvc')} init --no-scm` makes one"
        found = f"no .dvc here: rounds are kept in the store only ({start})"
        yield Finding("dvc", "warning", found)
        return
    found = f"dvc {version('dvc')}, repository {folder}"
    if not (folder / ".git").exists() and not _has_no_scm(folder):
        cure = f"`git init`, or `{sibling_program('dvc')} config --local core.no_scm true`"
        yield Finding("dvc", "warning", f"{found}, without git: before `dvc repro` type {cure}")
    else:
        yield Finding("dvc", "ok", found)
    for lock in dvc_locks.locks(folder):
        holder = f"{lock.text}{f': {lock.cure}' if lock.cure else ''}"
        yield Finding("dvc lock", "warning" if lock.is_stale and lock.cure else "ok", holder)


def _in_manifests() -> str:
    """Return what manifests say about the commit of this code, which may be in another folder."""
    commit = commit_of(CODE)
    if isinstance(commit, NoCommit):
        return f"manifests say revision unknown ({commit.reason})"
    return f"manifests name commit {commit.sha[:10]} of {CODE}"


def _has_no_scm(folder: Path) -> bool:
    from dvc.config import Config

    config: dict[str, dict[str, object]] = dict(Config(str(folder / ".dvc"), validate=False))
    return bool(config.get("core", {}).get("no_scm"))


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
        env=os.environ | {"LC_ALL": "C"},  # the words of its errors are looked for
    )
    return done.stdout.rstrip()
