"""A stage's notices reach the terminal and `afd status`, each once."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from afd.config import Params
from afd.params import load_params
from afd.runtime.parts import add_notice, notices_file
from afd.stages import requests
from afd.store import Store
from flows.commands import operate
from flows.commands.status import overview
from flows.progress import ProgressBoard, RunningStage, saved_notices, take_notices
from tests.flows.conftest import PARAMS

LINE = "checkpoint step-7.safetensors is damaged: the stage goes on from step 4"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "runs" / "demo"
    made.mkdir(parents=True)
    shutil.copy(PARAMS, made / "params.yaml")
    return made


def test_a_notice_is_shown_once_and_kept(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    request = requests.prompts(load_params(Params, PARAMS))
    entry, work = RunningStage(request, 3, 0.0), store.work_path(request.output)
    board = ProgressBoard()
    take_notices(board, folder, store, entry)  # there is none
    add_notice(work, LINE)
    for _ in range(2):
        take_notices(board, folder, store, entry)
    add_notice(work, "another\nof two lines")
    take_notices(board, folder, store, entry, is_over=True)
    label = "round 3 prompts: "
    assert board.warnings == [label + LINE, label + "another of two lines"]
    assert saved_notices(folder) == board.warnings
    assert not notices_file(work).exists() and not list(store.root.glob(".work/*-*"))
    later = ProgressBoard()  # of another head, after a kill: it is known
    add_notice(work, LINE)
    take_notices(later, folder, store, entry)
    assert later.warnings == [] and len(saved_notices(folder)) == 2


def test_status_says_it(folder: Path) -> None:
    (folder / "notices.txt").write_text("".join(f"round {n} fit: {LINE}\n" for n in range(7)))
    found = overview(folder.parent, "demo")
    written = io.StringIO()
    operate._print_campaign(Console(file=written, width=40), found.campaigns[0], folder.parent)
    lines = [line for line in written.getvalue().splitlines() if "warning" in line]
    assert [line.split()[2] for line in lines] == ["2", "3", "4", "5", "6"]
    assert all(LINE in line for line in lines)  # whole, on a narrow terminal as well
