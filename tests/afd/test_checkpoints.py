"""Content as identity: where a file lies does not count, what is in it does."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from afd.checkpoints import content_sha256


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "afd" / "content-sha256.json"


def test_a_file_is_its_bytes(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"weights")
    assert content_sha256(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()


def test_a_folder_is_its_files_and_their_names_wherever_it_is(tmp_path: Path):
    folder = tmp_path / "one"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "w").write_bytes(b"1")
    (folder / "config.json").write_bytes(b"2")
    first = content_sha256(folder)
    shutil.copytree(folder, tmp_path / "two")
    (tmp_path / "two" / ".cache").mkdir()
    (tmp_path / "two" / ".cache" / "x").write_bytes(b"of a download tool")
    assert content_sha256(tmp_path / "two") == first
    part = content_sha256(folder, ("vae",))
    (folder / "config.json").write_bytes(b"3")
    assert content_sha256(folder) != first and content_sha256(folder, ("vae",)) == part
    (folder / "vae" / "w").rename(folder / "vae" / "v")
    assert content_sha256(folder, ("vae",)) != part


def test_a_changed_file_is_read_again_and_a_damaged_cache_is_no_error(
    tmp_path: Path, own_cache: Path
):
    file = tmp_path / "a"
    file.write_bytes(b"old")
    content_sha256(file)
    file.write_bytes(b"new")  # same size: only the time tells
    os.utime(file, ns=(1, 1))
    assert content_sha256(file) == hashlib.sha256(b"new").hexdigest()
    own_cache.write_text("[")
    assert content_sha256(file) == hashlib.sha256(b"new").hexdigest()


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="gone"):
        content_sha256(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no files"):
        content_sha256(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="vae"):
        content_sha256(tmp_path / "empty", ("vae",))
