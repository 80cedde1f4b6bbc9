"""Output that can go nowhere, or not as it is: the work goes on, and what is printed is true."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from flows.commands.exit_codes import ExitCode
from flows.commands.orders import orders_table
from tests.flows.conftest import PROJECT

WORK = """
import sys
from pathlib import Path
from flows.commands.consoles import console
from flows.commands.ending import until_end
from flows.commands.json_output import print_document

def run():
    console().print("a path: runs/[/]/[red]caf\\u00e9\\udcff")
    print_document({"name": "caf\\u00e9\\udcff \\u2026"})
    for number in range(20_000):
        print("line", number)
    Path(sys.argv[1]).write_text("done")

until_end(run)
"""


def played(out: str, done: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """The command's end; `out` is shell behind it."""
    command = f'"$0" -c "$1" "$2" {out}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, sys.executable, WORK, str(done)],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        env=os.environ | variables,
    )


@pytest.mark.parametrize("out", ["| head -1", ">&-", ">&- 2>&-"])
def test_a_reader_that_leaves_does_not_stop_the_work(out: str, tmp_path: Path) -> None:
    ended = played(out, tmp_path / "done")
    assert (ended.returncode, ended.stderr) == (ExitCode.DONE, "")
    assert (tmp_path / "done").read_text() == "done"


def test_output_that_the_disk_cannot_take_is_said_at_the_end(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    ended = played("> /dev/full", tmp_path / "done")
    assert ended.returncode == ExitCode.NO
    assert ended.stderr == "the output is not whole: No space left on device\n"
    assert (tmp_path / "done").read_text() == "done"


def test_an_ascii_terminal_gets_every_letter_in_another_way(tmp_path: Path) -> None:
    ended = played("", tmp_path / "done", PYTHONIOENCODING="ascii", LANG="C", LC_ALL="C")
    assert (ended.returncode, ended.stderr) == (ExitCode.DONE, "")
    assert ended.stdout.isascii()
    first, document = ended.stdout.split("\n", 1)
    assert first == r"a path: runs/[/]/[red]caf\xe9\udcff"
    assert json.loads(document[: document.index("}") + 1]) == {"name": "caf\u00e9\udcff \u2026"}


def test_the_key_of_an_order_is_whole_in_a_narrow_terminal() -> None:
    known = {
        "key": "0123456789abcdef" * 4,
        "state": "ambiguous",
        "task_id": "task-0123456789",
        "prompt": "a small red ball drops straight down",
        "reason": "its answer was lost [/]",
    }
    row: Any = SimpleNamespace(**known)
    narrow = Console(width=40, file=io.StringIO(), markup=False)
    narrow.print(orders_table([row]))
    assert isinstance(narrow.file, io.StringIO)
    lines = narrow.file.getvalue().splitlines()
    assert any(line.startswith("0123456789ab ") for line in lines)
    assert max(map(len, lines)) <= 40
