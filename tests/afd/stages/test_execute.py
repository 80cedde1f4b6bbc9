"""The door: exit codes and texts of everything that can be wrong, with the real `prompts` stage."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from afd.artifacts import ArtifactRef
from afd.attempts import BusyError
from afd.config import Params
from afd.params import load_params
from afd.runtime.outcome import RefusedError
from afd.runtime.request import StageRequest
from afd.stages.__main__ import main
from afd.stages.execute import execute
from afd.stages.requests import prompts
from afd.store import Store

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
SPLITS = {"num_held_out": 4, "num_tuning": 0, "num_train": None}
GRAMMAR = {"prompts": {"kind": "grammar"} | SPLITS, "seed": 1}


def prompts_request(**changed: object) -> StageRequest:
    return StageRequest(stage="prompts", params=GRAMMAR | changed, inputs={})


def file_request(file: Path) -> StageRequest:
    values = load_params(Params, TINY).model_dump(mode="json")
    chosen = {"kind": "file", "path": str(file)} | SPLITS | {"num_held_out": 2}
    evaluate = values["evaluate"] | {"num_prompts": 2, "round_num_prompts": 2}
    values |= {"prompts": chosen, "evaluate": evaluate}
    return prompts(Params.model_validate(values))


def written(folder: Path, request: StageRequest) -> Path:
    file = folder / "request.json"
    file.write_text(request.model_dump_json())
    return file


def call(folder: Path, request: StageRequest, name: str = "prompts") -> int:
    return main([name, "--request", str(written(folder, request)), "--store", str(folder / "s")])


def test_an_artifact_is_made_once(tmp_path: Path) -> None:
    request, store = prompts_request(), Store(tmp_path / "s")
    made = execute(request, store)
    stamp = (made.path / "manifest.json").stat().st_mtime_ns
    again = execute(request, store)
    assert again == made
    assert (again.path / "manifest.json").stat().st_mtime_ns == stamp
    assert not store.work_path(request.output).exists()
    assert made.manifest.params == request.params
    assert made.manifest.made_by.num_threads == 1
    assert set(made.manifest.made_by.versions) >= {"python", "torch", "diffusers"}


def test_the_command_line_says_where_it_is(tmp_path: Path) -> None:
    request = prompts_request()
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "afd.stages", "prompts"),
            *("--request", str(written(tmp_path, request))),
            *("--store", str(tmp_path / "s")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == Store(tmp_path / "s").path(request.output)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("not json", "not a stage request"),
        ('{"stage": "promps", "params": {}, "inputs": {}}', "stage: Input should be"),
        ('{"stage": "prompts", "params": {}, "inputs": {}, "more": 1}', "more: Extra inputs"),
        ('{"stage": "fit", "params": {}, "inputs": {}}', "asks for fit, not prompts"),
    ],
)
def test_a_bad_request_is_refused_by_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    file = tmp_path / "request.json"
    if content is not None:
        file.write_text(content)
    code = main(["prompts", "--request", str(file), "--store", str(tmp_path / "s")])
    told = capsys.readouterr().err
    assert code == 2
    assert said in told
    assert "run the same command again" in told
    assert "Traceback" not in told


def test_bad_prompts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"text": "a ball\x07 falls"}, {"text": ""}]
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert call(tmp_path, file_request(file)) == 2
    told = capsys.readouterr().err
    assert "prompts.jsonl" in told
    assert "problem(s)" in told
    assert "Traceback" not in told


def test_a_prompts_file_is_its_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, moved = tmp_path / "prompts.jsonl", tmp_path / "moved.jsonl"
    file.write_text('{"text": "a ball"}\n{"text": "no ball"}\n{"text": "two balls"}\n')
    moved.write_bytes(file.read_bytes())
    asked = file_request(file)
    assert file_request(moved).output == asked.output
    file.write_text('{"text": "a ball"}\n{"text": "no ball"}\n{"text": "red balls"}\n')
    assert file_request(file).output != asked.output
    assert call(tmp_path, asked) == 2
    assert "has changed since" in capsys.readouterr().err
    file.unlink()
    assert call(tmp_path, asked) == 2
    told = capsys.readouterr().err
    assert "cannot be read" in told
    assert "Traceback" not in told
    with pytest.raises(RefusedError, match=r"prompts\.path: .* cannot be read"):
        file_request(file)
    file.write_bytes(moved.read_bytes())
    assert call(tmp_path, asked) == 0


def test_a_missing_input_is_the_stores_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = ArtifactRef(kind="prompt_set", fingerprint="0" * 64)
    request = StageRequest(stage="harvest", params={}, inputs={"prompt_set": absent})
    assert call(tmp_path, request, "harvest") == 3
    assert "not made yet" in capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 kB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_said_and_the_same_command_goes_on(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (28 << 10))
    call_store = ["--store", str(small_disk / "s")]
    file = written(tmp_path, prompts_request())
    assert main(["prompts", "--request", str(file), *call_store]) == 3
    told = capsys.readouterr().err
    assert "the disk is full" in told
    assert "kept" in told
    assert "run the same command again" in told
    assert "Traceback" not in told
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert main(["prompts", "--request", str(file), *call_store]) == 0


def test_a_read_only_disk_is_said(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    file = written(tmp_path, prompts_request())
    assert main(["prompts", "--request", str(file), "--store", str(small_disk / "s")]) == 3
    told = capsys.readouterr().err
    assert "read-only" in told
    assert str(small_disk / "s") in told


def test_a_damaged_input_is_named_before_it_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = execute(prompts_request(), Store(tmp_path / "s"))
    file = made.file("prompts.jsonl")
    content = bytearray(file.read_bytes())
    content[10] ^= 1  # the same size: only its content can tell
    file.write_bytes(content)
    request = StageRequest(stage="harvest", params={}, inputs={"prompt_set": made.ref})
    assert call(tmp_path, request, "harvest") == 3
    told = capsys.readouterr().err
    assert "sha256" in told
    assert "`afd resume NAME` makes it anew" in told


def test_an_artifact_made_elsewhere_now_is_busy(tmp_path: Path) -> None:
    request, store = prompts_request(), Store(tmp_path / "s")
    work = store.work_path(request.output)
    work.mkdir(parents=True)
    with (work / "lock").open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BusyError):
            execute(request, store)
        assert call(tmp_path, request) == 4
    execute(request, store)


def test_a_kill_between_publishing_and_tidying_leaves_nothing_behind(tmp_path: Path) -> None:
    request, store = prompts_request(), Store(tmp_path / "s")
    file = written(tmp_path, request)
    command = [sys.executable, "-m", "afd.stages", "prompts", "--request", str(file)]
    killed = subprocess.run(
        [*command, "--store", str(tmp_path / "s")],
        env={**os.environ, "AFD_FAILPOINT": "store.after_publish"},
        check=False,
        timeout=120,
    )
    assert killed.returncode == -9
    assert store.have(request.output)
    assert store.work_path(request.output).exists()
    execute(request, store)
    assert not store.work_path(request.output).exists()
