"""Results that dvc removed before it runs a stage."""

import subprocess
from pathlib import Path

import pytest
import yaml

from flows.recorded import cell_files, cell_name, put_back

MD5 = "0" * 32


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A cell's files: the first committed, the second in dvc's cache too, the third nowhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "main@afd-1")
    names = cell_files(cell_name("afd", "1"))
    for file in names[:2]:
        file.parent.mkdir(parents=True)
        file.write_text("committed")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "results"]):
        author = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", *author, *command], check=True)
    cached = tmp_path / ".dvc" / "cache" / "files" / "md5" / MD5[:2] / MD5[2:]
    cached.parent.mkdir(parents=True)
    cached.write_text("cached")
    outs = [{"path": str(names[1]), "md5": MD5}, {"path": str(names[0]), "md5": "1" * 32}]
    lock = {"stages": {"main@afd-1": {"outs": outs}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    for file in names[:2]:
        file.unlink()
    return names


def test_they_come_from_the_cache_or_else_from_the_commit(files: list[Path]) -> None:
    assert put_back(files) == files[:2]
    assert [file.read_text() for file in files[:2]] == ["committed", "cached"]
    files[0].write_text("newer")
    assert put_back(files) == [] and files[0].read_text() == "newer"


def test_without_lock_or_git_nothing_is_written(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.lock").write_text("stages: [")
    (tmp_path / ".git").rename(tmp_path / "gone")
    assert put_back(files) == []
    (tmp_path / "gone").rename(tmp_path / ".git")
    monkeypatch.delenv("DVC_STAGE")
    assert put_back(files) == []  # a person removed them
