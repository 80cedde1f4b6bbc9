"""Every command line that README and docs print works as printed, or says why it is not run.

marks.yaml names each of them:
    run        in order, in one folder, with one round of params/tiny.yaml as params/pocket.yaml
    exits N    run, and ends with N; `pocket`: with params/pocket.yaml as it is
    serve      run until it says its address, then Ctrl-C
    nightly    not run here: it takes too long, or another test does the same
    needs      a key, weights, a GPU or a cluster: its words are parsed
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli import app
from tests.docs.printed import Printed, mentioned, pages, typed

PROJECT = Path(__file__).parents[2]
MARKED = Path(__file__).with_name("marks.yaml")
MARKS: dict[str, dict[str, str]] = yaml.safe_load(MARKED.read_text())
KINDS = ("run", "serve", "exits", "nightly", "needs")
PATIENCE_S = 600.0
TYPED = [command for page in pages(PROJECT) for command in typed(page)]
MENTIONED = [command for page in pages(PROJECT) for command in mentioned(page)]


def mark(command: Printed) -> str:
    return MARKS.get(command.page, {}).get(command.first_line, "")


def test_every_command_that_a_page_offers_carries_a_mark() -> None:
    unmarked = [f"{one.page}:{one.line} {one.text}" for one in TYPED if not mark(one)]
    assert not unmarked
    assert all(mark(one).split()[0] in KINDS for one in TYPED)


def test_every_mark_is_of_a_command_that_a_page_offers() -> None:
    offered = {(one.page, one.first_line) for one in TYPED}
    marked = {(page, text) for page, marks in MARKS.items() for text in marks}
    assert marked <= offered


@pytest.mark.parametrize("command", MENTIONED, ids=lambda one: f"{one.page}:{one.line}")
def test_a_command_that_a_page_mentions_exists_with_its_options(command: Printed) -> None:
    _parsed(command.words[1:])


@pytest.mark.parametrize(
    "command",
    [one for one in TYPED if "afd" in one.words[:1] and mark(one).split()[:1] == ["needs"]],
    ids=lambda one: f"{one.page}:{one.line}",
)
def test_a_command_that_cannot_run_here_exists_with_its_options(command: Printed) -> None:
    _parsed(command.words[1:])


def _parsed(words: list[str]) -> None:
    """Raise AssertionError for a command or an option that `afd` does not have."""
    if words[0].isupper() or words[0] in app.help_flags or words[0] in app.version_flags:
        return  # `afd COMMAND --help`, `afd --version`
    path, apps, rest = app.parse_commands(words)
    assert path, words
    if path[0] in ("help", "--install-completion") or apps[-1].default_command is None:
        return
    arguments = apps[-1].assemble_argument_collection()
    known = {name for argument in arguments for name in argument.names}
    options = {word.split("=")[0] for word in rest if word.startswith("--")}
    assert options - known <= {*app.help_flags}, f"{words}: {options - known}"


def set_pocket(folder: Path, name: str) -> None:
    """Write params/pocket.yaml of a clone: itself, or one round of the tiny campaign."""
    values = (PROJECT / "params" / f"{name}.yaml").read_text()
    if name == "tiny":
        assert "num_rounds: 2\n" in values
        values = values.replace("num_rounds: 2\n", "num_rounds: 1\n")
    (folder / "params" / "pocket.yaml").write_text(values)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose pocket campaign is the tiny one, with the environment of this checkout.

    It has no campaigns: `demo` of somebody who played in this folder is not the README's.
    """
    folder = tmp_path_factory.mktemp("printed") / "afd"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file() and not name.startswith(("runs/", "store/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)
    set_pocket(folder, "tiny")
    (folder / ".venv").symlink_to(Path(sys.prefix))
    (folder / "install.sh").write_text("exit 0\n")  # it is installed: through the link
    for command in (
        "git init -q", "git config user.name t", "git config user.email t@t.invalid",
        "git add -A", "git commit -qm start",
    ):  # fmt: skip
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_the_readme_works_as_printed_in_order_in_one_folder(clone: Path) -> None:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT", "MLFLOW", "PYTEST"))
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": str(clone.parent / "gitconfig"),
        "HOME": str(clone.parent),
        "COLUMNS": "100",
    }
    (clone.parent / "gitconfig").write_text("[user]\nname = t\nemail = t@t.invalid\n")
    failed: list[str] = []
    for command in (one for one in TYPED if one.page == "README.md"):
        kind, *wanted = mark(command).split()
        set_pocket(clone, "pocket" if "pocket" in wanted else "tiny")
        if kind in ("run", "exits"):
            done = subprocess.run(
                ["bash", "-c", command.text], cwd=clone, env=environment, text=True,
                capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False,
            )  # fmt: skip
            if done.returncode != int(wanted[0] if kind == "exits" else 0):
                failed.append(f"{command.text}: {done.returncode}\n{done.stdout}{done.stderr}")
            assert "Traceback" not in done.stdout + done.stderr, failed
        elif kind == "serve" and (words := _served(command.text, clone, environment)):
            failed.append(f"{command.text}: {words}")
    assert not failed, "\n\n".join(failed)


def _served(command: str, folder: Path, environment: dict[str, str]) -> str:
    """Start a server, wait for its address, send Ctrl-C; return what was wrong."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line)
        if "http://" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    seen.append(process.stdout.read())
    code = process.wait(PATIENCE_S)
    fine = any("http://" in line for line in seen) and code in (0, 130)
    return "" if fine else f"{code}\n{''.join(seen)}"
