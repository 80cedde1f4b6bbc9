"""The command line: quick to answer, and what is wrong is said without a traceback, exit code 2."""

import ast
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flows.commands.exit_codes import ExitCode
from tests.flows.conftest import PARAMS, PROJECT

HEAVY = ("torch", "prefect", "mlflow", "dvc", "submitit", "pydantic", "numpy", "yaml")
LOOK = f"""
import sys
from flows.cli import main
sys.argv = ["afd", "--help"]
try:
    main()
except SystemExit:
    pass
print("heavy:", [name for name in {HEAVY!r} if name in sys.modules])
"""


def afd(*arguments: str, cwd: Path = PROJECT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=120,
    )


def test_help_imports_nothing_heavy() -> None:
    said = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, cwd=PROJECT
    ).stdout
    assert "heavy: []" in said
    for command in ("campaign", "round", "show", "report", "ui", "doctor"):
        assert command in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("campaign", "--name", "x"), ("--params params/pocket.yaml",)),
        (("campaign", "--name", "x", "--params", "nope.yaml"), ("nope.yaml", "no such file")),
        (("campaign", "--name", "a/b", "--params", str(PARAMS)), ("a/b", "of a-z, A-Z, 0-9")),
        (
            (
                *("campaign", "--name", "x", "--params", str(PARAMS)),
                *("--set", "sed=1", "--set", "update.beta=-1", "--set", "fps=.nan"),
            ),
            ("did you mean 'seed'", "update.beta", "fps", "3 problem"),
        ),
        (
            ("campaign", "--name", "x", "--params", str(PARAMS), "--set", "seed=${oc.env:HOME}"),
            ("interpolation is not allowed",),
        ),
        (
            ("round", "--name", "x", "--params", str(PARAMS), "--set-cluster", "executor=slrm"),
            ("executor", "slrm"),
        ),
        (("report", "--name", "x"), ("no such campaign",)),
        (("ui", "--name", "x"), ("no such campaign",)),
        (("ui", "--port", "99999"), ("1 to 65535",)),
        (("logs", "--name", "x"), ("no such campaign",)),
        (("resume",), ("no campaign was stopped",)),
        (("show", "doesnotexist"), ("doesnotexist",)),
    ],
)
def test_what_a_person_can_mend_is_said_in_words(
    tmp_path: Path, arguments: tuple[str, ...], said: tuple[str, ...]
) -> None:
    paths = ("--runs", str(tmp_path / "runs"))
    store = (
        ()
        if arguments[0] in ("report", "ui", "logs", "resume")
        else ("--store", str(tmp_path / "store"))
    )
    done = afd(*arguments, *paths, *store)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for words in said:
        assert words in done.stderr
    assert not (tmp_path / "store").exists()


def test_an_index_beyond_the_last_round(tmp_path: Path) -> None:
    paths = ("--runs", str(tmp_path / "runs"), "--store", str(tmp_path / "store"))
    done = afd("round", "--name", "x", "--params", str(PARAMS), "--index", "9", *paths)
    assert done.returncode == 2
    assert "rounds 0 to 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_says_what_is_there(tmp_path: Path) -> None:
    paths = ("--runs", str(tmp_path / "runs"), "--store", str(tmp_path / "store"))
    done = afd("doctor", *paths)
    assert done.returncode in (0, 2), done.stderr
    for what in ("python", "packages", "git", "dvc", "mlflow", "prefect"):
        assert what in done.stdout


def test_the_ui_command_is_said() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    done = afd("ui", "--dry", "--port", str(free))
    assert done.returncode == 0
    assert "mlflow server" in done.stdout


def test_the_page_lists_every_exit_code() -> None:
    lines = (PROJECT / "docs" / "cli.md").read_text().partition("## Exit codes")[2].splitlines()
    codes = [re.match(r"\| (\d+) \|", line) for line in lines]
    assert {int(code[1]) for code in codes if code} == {*ExitCode}


def test_no_command_has_an_exit_code_of_its_own() -> None:
    """A command's function, which is annotated `-> int`, returns members of ExitCode."""
    for file in (PROJECT / "flows").glob("commands/*.py"):
        for found in ast.walk(ast.parse(file.read_text())):
            if not isinstance(found, ast.FunctionDef) or found.name.startswith("_"):
                continue
            if isinstance(found.returns, ast.Name) and found.returns.id == "int":
                returned = [n.value for n in ast.walk(found) if isinstance(n, ast.Return)]
                assert not [v for v in returned if isinstance(v, ast.Constant)], file.name
