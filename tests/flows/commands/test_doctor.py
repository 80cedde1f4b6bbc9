"""`afd doctor` ends in a table, on whatever is broken."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.commands import doctor, doctor_versions
from flows.commands.doctor_cluster import Finding
from tests.flows.conftest import CLUSTER, PROJECT

# Whatever a check calls to look at the machine.
PROBES = (
    "disk_findings", "git_findings", "dvc_findings", "slurm_findings", "configured_api", "version",
    "secret_fields", "shutil.which", "os.environ.get", "platform.python_version", "chosen_cluster",
    "sqlite3.connect",
)  # fmt: skip
AUTHOR = ("-c", "user.name=t", "-c", "user.email=t@t")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what every check looks for."""
    (tmp_path / "requirements.lock").write_text("torch==2.0\n")
    database = tmp_path / "runs" / ".services" / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.touch()
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "one.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examined(folder: Path) -> list[Finding]:
    return doctor.findings(folder / "runs", folder / "store", CLUSTER)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), RuntimeError("two\nlines"), KeyError("HOME")],
)
def test_a_probe_that_raises_is_a_row_and_the_other_checks_are_made(
    here: Path, monkeypatch: pytest.MonkeyPatch, probe: str, error: Exception
) -> None:
    before = [one.what for one in examined(here)]

    def broken(*_: object, **__: object) -> Iterator[Finding]:
        raise error

    monkeypatch.setattr(f"flows.commands.doctor.{probe}", broken)
    found = examined(here)
    monkeypatch.undo()
    unchecked = [one for one in found if one.text.startswith("could not be checked: ")]
    assert unchecked
    assert all(type(error).__name__ in one.text and "\n" not in one.text for one in unchecked)
    others = {one.what for one in unchecked}
    assert set(before) <= others | {one.what for one in found}


def test_every_check_is_guarded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("half", "ok", "what came before the error stays")
        raise OSError("no")

    names = list(doctor._checks(doctor.CampaignPaths(here / "runs", here / "store"), None))
    monkeypatch.setattr(doctor, "_checks", lambda *_: dict.fromkeys(names, broken))
    found = examined(here)
    assert [one.what for one in found if one.text == "could not be checked: OSError: no"] == names
    assert sum(one.what == "half" for one in found) == len(names)


def afd_doctor(folder: Path, *paths: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flows.cli", "doctor", "--cluster", str(CLUSTER), *paths]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "COLUMNS": "400"} | environ
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=120
    )


def test_folders_that_cannot_be_made_without_home_git_or_dvc(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = afd_doctor(tmp_path, "--runs", "/proc/runs", "--store", "file/store")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for words in (
        "/proc cannot be written",
        "file cannot be written",
        "no git repository",
        "no .dvc here",
        "/proc/runs/.services/mlflow/mlflow.db will be made",
    ):
        assert words in done.stdout  # fmt: skip


def test_a_clone_of_another_user_and_one_without_git(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    foreign = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}  # git's own switch for this case
    said = afd_doctor(tmp_path, **foreign).stdout
    assert "belongs to another user" in said
    assert f"git config --global --add safe.directory {tmp_path}" in said
    assert "a git repository without a commit" in afd_doctor(tmp_path).stdout
    (tmp_path / ".git").rename(tmp_path / "gone")
    said = afd_doctor(tmp_path).stdout
    assert "without git: before `dvc repro` type" in said
    said = afd_doctor(tmp_path, PATH="/nowhere").stdout
    assert "git is not installed" in said


def test_results_are_no_uncommitted_code(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *AUTHOR, *arguments], check=True)

    git("init", "-q")
    for name in ("dvc.lock", "code.py", "results/arms/afd-1.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as committed\n")
    git("add", "-A")
    git("commit", "-qm", "all")

    def finding() -> tuple[str, str]:
        (found,) = doctor_versions.git_findings(tmp_path)
        return found.verdict, found.text

    assert finding()[0] == "ok"
    (tmp_path / "dvc.lock").write_text("a campaign's\n")
    (tmp_path / "results/arms/afd-1.json").write_text("a campaign's\n")
    verdict, said = finding()
    assert verdict == "ok"
    assert "results to commit: dvc.lock and 1 more" in said
    (tmp_path / "code.py").write_text("mine\n")
    verdict, said = finding()
    assert verdict == "warning"
    assert "with uncommitted changes: code.py" in said
