"""Version of this package and the commit of its checkout."""

import importlib.metadata
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "afd"
CODE = Path(__file__).resolve().parents[1]
TIMEOUT_S = 20
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE")


@dataclass(frozen=True)
class Commit:
    """HEAD of the checkout that this package runs from."""

    sha: str
    is_dirty: bool  # changes of tracked files of afd/ that are not committed


@dataclass(frozen=True)
class NoCommit:
    """No commit of this code is known."""

    reason: str


def version() -> str:
    """Return the installed version, or "unknown" where the package is on the path alone."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def version_text() -> str:
    """Return `0.1.0 (commit 5bd2fe4, with uncommitted changes)`, or `0.1.0` outside a checkout."""
    commit = commit_of(CODE)
    if isinstance(commit, NoCommit):
        return version()
    changes = ", with uncommitted changes" if commit.is_dirty else ""
    return f"{version()} (commit {commit.sha[:7]}{changes})"


def commit_of(root: Path) -> Commit | NoCommit:
    """Return the commit of the checkout at `root`, or the reason why there is none.

    A package in site-packages may lie below another project's repository: that one does not count.
    """
    try:
        top = Path(_git(root, "rev-parse", "--show-toplevel"))
        if top.resolve() != root.resolve():
            return NoCommit(f"the repository {top} does not hold this code, which is in {root}")
        sha = _git(root, "rev-parse", "HEAD")
        if not _git(root, "ls-tree", "--name-only", "HEAD", "--", PACKAGE):
            return NoCommit(
                f"the repository {top} does not hold this code: {PACKAGE}/ is not in it"
            )
        changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", PACKAGE)
    except (OSError, subprocess.SubprocessError) as error:
        return NoCommit(_reason(root, error))
    return Commit(sha, bool(changes))


def _reason(root: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "git is not installed: https://git-scm.com/downloads"
    if isinstance(error, subprocess.CalledProcessError):
        return git_reason(root, str(error.stderr), error.returncode)
    if isinstance(error, subprocess.TimeoutExpired):
        return f"git does not answer within {TIMEOUT_S} s in {root}"
    return f"git cannot be run: {error}"


def git_reason(folder: Path, stderr: str, code: int) -> str:
    """Return the cause of a git command that failed in `folder`, with git's own cure."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if "dubious ownership" in stderr:
        cure = shlex.join(["git", "config", "--global", "--add", "safe.directory", str(folder)])
        return f"{folder} belongs to another user, so git does not read it: `{cure}`"
    if "not a git repository" in stderr:
        return f"no git repository in {folder}"
    if "ambiguous argument 'HEAD'" in stderr:
        return "a git repository without a commit: `git add . && git commit`"
    return lines[-1] if lines else f"git ended with exit code {code}"


def _git(root: Path, *arguments: str) -> str:
    """Return git's output about `root` for any owner of the folder: its code runs already."""
    trusted = f"safe.directory={root}"
    # A hook of another repository names that one; the words of git's errors are looked for.
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    return subprocess.run(
        ["git", "-c", trusted, "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
        env=environment | {"LC_ALL": "C"},
    ).stdout.strip()
