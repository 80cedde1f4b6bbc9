"""Version and commit: of this package's own checkout, never of a repository around it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from afd.stages import execute
from afd.version import Commit, NoCommit, commit_of, version, version_text


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


def reason(root: Path) -> str:
    found = commit_of(root)
    assert isinstance(found, NoCommit)
    return found.reason


def test_a_repository_around_site_packages_is_not_this_code(tmp_path: Path) -> None:
    repository(tmp_path)
    site_packages = tmp_path / ".venv" / "site-packages"
    (site_packages / "afd").mkdir(parents=True)
    assert reason(site_packages).startswith(f"the repository {tmp_path} does not hold this code")


def test_a_repository_whose_commits_lack_this_code(tmp_path: Path) -> None:
    repository(tmp_path)
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    for arguments in (("rm", "-rq", "--cached", "afd"), (*who, "commit", "-qm", "two")):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    assert reason(tmp_path).endswith("does not hold this code: afd/ is not in it")


def test_every_other_reason_is_told_with_gits_own_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("LANGUAGE", "de")
    assert reason(tmp_path) == f"no git repository in {tmp_path}"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert reason(tmp_path) == "a git repository without a commit: `git add . && git commit`"
    (tmp_path / ".git" / "HEAD").write_bytes(b"\0")
    assert "git" in reason(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reason(tmp_path).startswith("git is not installed")


def test_a_hook_of_another_repository_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha, other = repository(tmp_path / "one"), repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert commit_of(tmp_path / "one") == Commit(sha, is_dirty=False)
    assert sha and other


def test_a_manifest_says_why_its_revision_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "commit_of", lambda _: NoCommit("git is not installed"))
    made_by = execute.describe_maker()
    assert (made_by.revision, made_by.is_dirty) == ("unknown", True)
    assert made_by.no_revision == "git is not installed"
    monkeypatch.setattr(execute, "commit_of", lambda _: Commit("c0ffee", is_dirty=False))
    made_by = execute.describe_maker()
    assert (made_by.revision, made_by.is_dirty, made_by.no_revision) == ("c0ffee", False, "")


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
