"""Version of this package and the commit of its checkout."""

import importlib.metadata
import subprocess
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "afd"


@dataclass(frozen=True)
class Commit:
    """HEAD of the checkout that this package runs from."""

    sha: str
    is_dirty: bool  # changes of tracked files of afd/ that are not committed


def version() -> str:
    """Return the installed version, or "unknown" where the package is on the path alone."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def version_text() -> str:
    """Return `0.1.0 (commit 5bd2fe4, with uncommitted changes)`, or `0.1.0` outside a checkout."""
    commit = commit_of(Path(__file__).resolve().parents[1])
    if commit is None:
        return version()
    changes = ", with uncommitted changes" if commit.is_dirty else ""
    return f"{version()} (commit {commit.sha[:7]}{changes})"


def commit_of(root: Path) -> Commit | None:
    """Return the commit of the checkout at `root`; None without git or where `root` is no checkout.

    A package in site-packages may lie below another project's repository: that one does not count.
    """
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root.resolve():
            return None
        sha = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", PACKAGE)
    except (OSError, subprocess.SubprocessError):
        return None
    return Commit(sha, bool(changes))


def _git(root: Path, *arguments: str) -> str:
    """Return git's output about `root` for any owner of the folder: its code runs already."""
    trusted = f"safe.directory={root}"
    return subprocess.run(
        ["git", "-c", trusted, "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout.strip()
