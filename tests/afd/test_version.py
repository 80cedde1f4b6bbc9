"""Version and commit: of this package's own checkout, never of a repository around it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from afd.version import Commit, commit_of, version, version_text


def repository(root: Path) -> str:
    """A repository with one committed file of the package; its HEAD."""
    (root / "afd").mkdir(parents=True)
    (root / "afd" / "code.py").write_text("one = 1\n")
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    for arguments in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "one")):
        subprocess.run(["git", "-C", str(root), *arguments], check=True)
    head = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()


def test_a_clean_checkout_and_one_with_changes(tmp_path: Path) -> None:
    sha = repository(tmp_path)
    assert commit_of(tmp_path) == Commit(sha, is_dirty=False)
    (tmp_path / "afd" / "code.py").write_text("one = 2\n")
    assert commit_of(tmp_path) == Commit(sha, is_dirty=True)


def test_a_repository_around_site_packages_is_not_this_code(tmp_path: Path) -> None:
    repository(tmp_path)
    site_packages = tmp_path / ".venv" / "site-packages"
    (site_packages / "afd").mkdir(parents=True)
    assert commit_of(site_packages) is None


def test_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_a_clone_of_another_user(tmp_path: Path) -> None:
    sha = repository(tmp_path)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    assert commit_of(tmp_path) == Commit(sha, is_dirty=False)


def test_what_is_printed() -> None:
    number = re.escape(version())
    commit = r"( \(commit [0-9a-f]{7}(, with uncommitted changes)?\))?"
    assert re.fullmatch(number + commit, version_text())
    assert re.fullmatch(r"\d+\.\d+\.\d+", version())
