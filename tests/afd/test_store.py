"""A half-written artifact is invisible: killed for real anywhere, it is whole or not there."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from afd.artifacts import Artifact, ArtifactRef, MadeBy, Manifest
from afd.attempts import BusyError, LostError
from afd.store import Store, StoreError, disk_errors, write_json

REF = ArtifactRef(kind="rollouts", fingerprint="ab" * 32)
FILES = {"a.bin": b"first", "sub/b.bin": b"second"}
PUBLISH = "import sys; from pathlib import Path; from tests.afd.test_store import publish; "


def publish(root: Path) -> Artifact:
    """One whole attempt, as the door makes it."""
    store = Store(root)
    with store.attempt(REF) as attempt:
        out = attempt.out
        for name, content in FILES.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
        manifest = Manifest(
            schema_version=1,
            kind=REF.kind,
            fingerprint=REF.fingerprint,
            stage="rollout",
            params={"seed": 1},
            made_from={},
            made_by=MadeBy(revision="r", is_dirty=False, versions={}, host="h"),
            files={},
            summary={"num_rollouts": 2},
            wall_s=1.0,
            cpu_s=1.0,
            created_at="2026-01-01T00:00:00+00:00",
        )
        return store.save(REF, manifest, attempt)


def is_whole(artifact: Artifact) -> bool:
    return {name: artifact.file(name).read_bytes() for name in artifact.manifest.files} == FILES


@pytest.mark.parametrize(
    "failpoint",
    ["store.file_synced:1", "store.file_synced:2", "store.before_manifest", "store.before_publish"],
)
def test_a_kill_leaves_nothing_and_the_next_attempt_succeeds(
    tmp_path: Path, failpoint: str
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", PUBLISH + "publish(Path(sys.argv[1]))", str(tmp_path)],
        env={**os.environ, "AFD_FAILPOINT": failpoint},
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=60,
    )
    store = Store(tmp_path)
    assert killed.returncode == -9
    assert not store.have(REF)
    assert not list(store.all())
    with pytest.raises(StoreError, match="not made yet"):
        store.load(REF)
    assert is_whole(publish(tmp_path))
    assert is_whole(store.load(REF, verify=True))


def test_a_kill_after_publishing_leaves_a_whole_one(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", PUBLISH + "publish(Path(sys.argv[1]))", str(tmp_path)],
        env={**os.environ, "AFD_FAILPOINT": "store.after_publish"},
        cwd=Path(__file__).parents[2],
        check=False,
        timeout=60,
    )
    store = Store(tmp_path)
    assert killed.returncode == -9
    assert store.have(REF)
    assert is_whole(store.load(REF, verify=True))
    store.tidy()
    assert not store.work_path(REF).exists()


def test_a_folder_without_a_manifest_is_nothing_and_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    half = store.path(REF)
    half.mkdir(parents=True)
    (half / "a.bin").write_bytes(b"half a copy")
    assert not store.have(REF)
    assert not list(store.all())
    assert store.find(REF.fingerprint[:4]) == []
    with pytest.raises(StoreError, match="not made yet"):
        store.load(REF)
    assert is_whole(publish(tmp_path))


def test_what_differs_from_its_manifest_is_named(tmp_path: Path) -> None:
    made, store = publish(tmp_path), Store(tmp_path)
    file = made.file("sub/b.bin")
    file.write_bytes(b"sEcond")  # the same size
    assert store.load(REF) == made
    with pytest.raises(StoreError, match=r"sub/b\.bin: its sha256"):
        store.load(REF, verify=True)
    file.write_bytes(b"longer than it was")
    with pytest.raises(StoreError, match=r"sub/b\.bin: 18 bytes, not 6"):
        store.load(REF)
    file.unlink()
    with pytest.raises(
        StoreError, match=r"sub/b\.bin: missing; move .* `afd resume NAME` makes it"
    ):
        store.load(REF)
    (tmp_path / ".dvc").mkdir()  # where bytes are tracked, they can be had back
    with pytest.raises(StoreError, match=r"missing; move .* then `dvc pull` restores it or"):
        store.load(REF)


def test_a_manifest_of_something_else_or_cut_short_is_refused(tmp_path: Path) -> None:
    made, store = publish(tmp_path), Store(tmp_path)
    file = made.path / "manifest.json"
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="not a manifest"):
        store.load(REF)
    file.write_text(json.dumps(json.loads(whole) | {"fingerprint": "cd" * 32}))
    with pytest.raises(StoreError, match="holds rollouts cdcdcdcdcdcdcdcd, not rollouts abab"):
        store.load(REF)


def test_a_manifest_from_before_threads_and_ranks_were_recorded_is_of_one(tmp_path: Path) -> None:
    file = publish(tmp_path).path / "manifest.json"
    content = json.loads(file.read_text())
    del content["made_by"]["num_threads"], content["made_by"]["num_ranks"]
    file.write_text(json.dumps(content))
    made_by = Store(tmp_path).load(REF).manifest.made_by
    assert (made_by.num_threads, made_by.num_ranks) == (1, 1)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "value.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"a": float("nan")})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [left.name for left in tmp_path.iterdir()] == ["value.json"]


def test_a_work_folder_that_another_process_removes_meanwhile_is_held_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before the lock is opened and once before it is held."""
    store = Store(tmp_path)
    work = store.work_path(REF)
    flock, mkdir, removed = fcntl.flock, Path.mkdir, []

    def late_flock(*arguments: Any) -> None:
        flock(*arguments)
        if len(removed) == 1:
            removed.append("lock")
            shutil.rmtree(work)

    def late_mkdir(path: Path, *arguments: Any, **named: Any) -> None:
        mkdir(path, *arguments, **named)
        if path == work and not removed:
            removed.append("folder")
            work.rmdir()

    monkeypatch.setattr(fcntl, "flock", late_flock)
    monkeypatch.setattr(Path, "mkdir", late_mkdir)
    with store.attempt(REF) as held:
        assert held.work.is_dir()
        assert removed == ["folder", "lock"]
        with pytest.raises(BusyError), Store(tmp_path).attempt(REF):
            pass


def test_where_the_disk_knows_no_locks_the_number_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    store = Store(tmp_path)
    with pytest.raises(LostError, match="overtaken by a later one"), store.attempt(REF) as first:
        with store.attempt(REF) as second:
            assert second.number > first.number
        first.check()
    with store.part(REF, "0"):
        pass
    assert is_whole(publish(tmp_path))
    store.work_path(REF).mkdir(parents=True)  # killed just after it was published
    store.tidy()
    assert not store.work_path(REF).exists()


def test_a_full_disk_is_named_also_when_safetensors_meets_it(tmp_path: Path) -> None:
    told_by_safetensors = "Error while serializing: I/O error: No space left (os error 28)"
    full = r"the disk is full; free some space.*run the same"
    with pytest.raises(StoreError, match=full), disk_errors(tmp_path):
        raise SafetensorError(told_by_safetensors)
    with pytest.raises(SafetensorError, match="not about the disk"), disk_errors(tmp_path):
        raise SafetensorError("not about the disk")
