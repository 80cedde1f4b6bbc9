"""Every command's help: a text for each option, examples that parse, one name for one thing."""

import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Literal

import pytest
from cyclopts import App

from afd.version import version_text
from flows.cli import app
from tests.flows.conftest import PROJECT
from tests.flows.test_cli import afd

NAMED = ("campaign", "round", "status", "report", "ui", "cancel", "resume", "show")


def commands(
    parent: App = app, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command with a function behind it, as it is typed."""
    children = {id(parent[name]): (name, parent[name]) for name in reversed([*parent])}
    for name, child in children.values():  # by its first name
        if name.startswith("-"):
            continue
        if child.default_command is not None:
            yield (*path, name), child
        else:
            yield from commands(child, (*path, name))


EVERY = {" ".join(path): found for path, found in commands()}


def help_of(*command: str) -> str:
    text = StringIO()
    with redirect_stdout(text), pytest.raises(SystemExit):
        app([*command, "--help"], result_action="sys_exit")
    return text.getvalue()


def test_commands_are_found() -> None:
    assert {"campaign", "ablation reproduced", "harvest run"} <= EVERY.keys()


@pytest.mark.parametrize("command", EVERY)
def test_every_option_has_a_text(command: str) -> None:
    bare = [
        argument.name
        for argument in EVERY[command].assemble_argument_collection()
        if not argument.parameter.help
    ]
    assert not bare


@pytest.mark.parametrize("command", EVERY)
def test_examples_parse(command: str) -> None:
    """Every command that a help shows is one that the command line takes."""
    epilogue = EVERY[command].help_epilogue
    assert epilogue is not None, "no example"
    lines = re.sub(r"\\\n\s*", "", epilogue).splitlines()[1:]
    assert any(line.split()[1 : 1 + len(command.split())] == command.split() for line in lines)
    for line in lines:
        typed = shlex.split(re.split(r"\s{3,}", line.strip())[0])
        assert typed[0] == "afd"
        app.parse_args(typed[1:], exit_on_error=False, print_error=False)
    assert max(map(len, epilogue.splitlines())) < 80


@pytest.mark.parametrize("command", EVERY)
def test_helps_show_no_empty_default(command: str) -> None:
    said = help_of(*command.split())
    for odd in ("[default: ()]", "[default: False]", "--empty-", "--what "):
        assert odd not in said


@pytest.mark.parametrize("command", NAMED)
def test_a_campaign_is_named_with_and_without_the_option(command: str) -> None:
    given = [
        app.parse_args([command, *name], exit_on_error=False)[1].arguments["name"]
        for name in (("demo",), ("--name", "demo"))
    ]
    assert given == ["demo", "demo"]


@pytest.mark.parametrize(
    ("alias", "command"), [("list", "status"), ("ls", "status"), ("stop", "cancel")]
)
def test_names_that_one_guesses(alias: str, command: str) -> None:
    assert app.parse_args([alias])[0] is app.parse_args([command])[0]


def test_help_of_a_command_is_its_own() -> None:
    asked = afd("help", "campaign")
    assert asked.returncode == 0
    assert "--set-aside" in asked.stdout
    assert afd("help", "nope").returncode == 2


def test_the_root_help_describes_the_groups() -> None:
    for words in ("ablation  ", "The arms that AFD", "harvest  ", "Clips of a paid"):
        assert words in help_of()


def test_the_version_is_the_package_s_with_the_commit() -> None:
    declared = re.search(r'^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    assert afd("--version").stdout.strip() == f"afd {version_text()}"
    assert version_text().startswith(declared[1])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell: Literal["bash", "zsh", "fish"]) -> None:
    script = app.generate_completion(shell=shell)
    for word in ("campaign", "reproduced", "set-aside"):
        assert word in script


def test_a_comparison_with_nothing_is_refused(tmp_path: Path) -> None:
    done = afd("compare", "demo", "--runs", str(tmp_path))
    assert done.returncode == 2
    assert "compare demo OTHER" in done.stderr
