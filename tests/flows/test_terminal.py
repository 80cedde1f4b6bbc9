"""A tiny campaign as a person at a terminal lives it: one window after the other, real processes.

One campaign in a git and DVC repository of its own: begun in a window that is resized, stopped by
Ctrl-C; gone on with in a wide window, cancelled from a second process; gone on with on a
dumb terminal that is closed; gone on with to its end in a narrow window without colours.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.campaign_lock import holder_of
from tests.flows.conftest import CLUSTER, PARAMS, PROJECT
from tests.flows.here import wait_for
from tests.flows.terminal import Terminal

DVC = str(Path(sys.executable).with_name("dvc"))
# Both lines, however long the path of the command is.
STOPPED = (
    r"stopped, its jobs too: everything finished is kept, and checkpoints\s+\S.* resume .*goes on"
)
pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1200)]  # the first one waits for all
STRANGE = ("Traceback", "Exception", "Collecting", "to cache", "!|", "WARNING", "INFO", "prefect.")


@dataclass
class Lived:
    """What stood in each window at the end, and what `afd status` said after it."""

    folder: Path
    begun: Terminal
    narrow: str  # the first window while a stage runs
    widened: str  # and after it was made wider
    cancelled: Terminal
    said_by_cancel: str
    dumb: Terminal
    ended: Terminal
    codes: list[int]
    states: list[str]
    followed: str  # `afd logs -f` of the first stages


def afd(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def split(terminal: Terminal) -> tuple[list[str], str]:
    """The lines above the last words of a stopped command, and these."""
    lines = terminal.lines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("stopped")]
    return lines[:at], " ".join(lines[at:])


def state(folder: Path) -> str:
    return str(json.loads((folder / "runs" / "t" / "asked.json").read_text())["state"])


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    folder = tmp_path_factory.mktemp("terminal")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / ".dvc").mkdir()
    shutil.copy(PROJECT / ".dvc" / "config", folder / ".dvc" / "config")
    resumes = ("resume", "--name", "t", "--no-prefect")
    codes, states = list[int](), list[str]()

    begun = Terminal(
        folder, "campaign", "--name", "t", "--params", str(PARAMS),
        "--cluster", str(CLUSTER), "--no-prefect",
        "--set", "warmstart.num_steps=400", cols=80,
    )  # fmt: skip
    narrow = begun.until("campaign  warmstart", "/400")
    begun.resize(100)
    begun.until("campaign  harvest      ", " s  num_clips=4")  # a line above: it ends meanwhile
    widened = begun.until(" of 15 stages")
    begun.press("c")
    codes.append(begun.end())
    states.append(state(folder))
    followed = afd(folder, "logs", "warmstart", "--name", "t")

    cancelled = Terminal(folder, *resumes, cols=200)
    cancelled.until(" of 15 stages", "0:0")
    wait_for(lambda: holder_of(folder / "runs" / "t"))
    said = afd(folder, "cancel", "--name", "t")
    codes.append(cancelled.end())
    states.append(state(folder))

    dumb = Terminal(folder, *resumes, cols=100, environment={"TERM": "dumb"})
    dumb.until("round 0   rollout")
    dumb.hang_up()
    wait_for(lambda: holder_of(folder / "runs" / "t") is None)
    states.append(state(folder))

    ended = Terminal(folder, *resumes, cols=80, environment={"NO_COLOR": "1"})
    codes.append(ended.end())
    return Lived(
        folder, begun, narrow, widened, cancelled, said, dumb, ended, codes, states, followed
    )


def test_one_bar_over_what_runs_while_lines_stay_above_it(lived: Lived) -> None:
    lines = [line.rstrip() for line in lived.narrow.splitlines() if line.strip()]
    (bar,) = [line for line in lines if " of 2 rounds" in line]
    assert re.fullmatch(r"t  ━.*━  0 of 2 rounds  \d of 15 stages  \d+:\d\d", bar), bar
    below = lines[lines.index(bar) + 1 :]
    assert any(re.match(r"campaign  warmstart  .*\d+/400  \d+:\d\d", line) for line in below)
    assert lines[0].startswith("campaign  prompts ") or "Prefect" in lines[0]


def test_after_a_resize_there_is_one_block_and_every_line_above_it(lived: Lived) -> None:
    assert lived.widened.count(" of 2 rounds") == 1
    assert lived.widened.count("campaign  prompts ") == 1


def test_ctrl_c_ends_in_two_lines(lived: Lived) -> None:
    assert lived.codes[0] == 130
    above, stopped = split(lived.begun)
    assert re.fullmatch(STOPPED, stopped), stopped
    assert not [line for line in above if " of 15 stages" in line]  # the block is gone
    assert re.match(r"campaign  (prompts|harvest|warmstart) +[\d.]+ s  ", above[-1]), above


def test_nothing_but_our_own_lines_on_any_terminal(lived: Lived) -> None:
    for terminal in (lived.begun, lived.cancelled, lived.dumb, lived.ended):
        text = terminal.text()
        assert not [word for word in STRANGE if word in text], text


def test_every_stop_leaves_the_campaign_cancelled(lived: Lived) -> None:
    assert lived.states == ["cancelled", "cancelled", "cancelled"]
    assert lived.codes == [130, 130, 0]
    assert lived.said_by_cancel.startswith("cancelled: t (pid ")
    _, stopped = split(lived.cancelled)
    assert re.fullmatch(STOPPED, stopped), stopped
    done = afd(lived.folder, "status", "--name", "t")
    assert "finished   2 of 2 rounds" in done


def test_a_dumb_terminal_gets_plain_lines(lived: Lived) -> None:
    assert b"\x1b" not in lived.dumb.raw
    assert "━" not in lived.dumb.text()


def test_finished_stages_and_rounds_stay_readable_without_colours(lived: Lived) -> None:
    assert not re.search(rb"\x1b\[[0-9;]*[39][0-9][;m]", lived.ended.raw)  # a colour
    text = lived.ended.text()
    for label in ("round 0", "round 1"):
        assert text.count(f"{label}   finished ") == 1, text
        assert text.count(f"{label}   evaluate ") == 1, text
    assert "…" not in text and "..." not in text  # neither a number nor a name is cut
    assert "report   " in text and "frechet_distance" in text
    assert len(list((lived.folder / "runs" / "t" / "rounds").glob("*.dvc"))) == 4


def test_the_log_of_a_stage_names_its_start_its_steps_and_its_end(lived: Lived) -> None:
    lines = lived.followed.splitlines()
    assert lines[0].startswith("==> runs/t/logs/warmstart-")
    assert re.search(r"warmstart starts on \S+, pid \d+, cpu, 1 thread$", lines[1]), lines
    assert "input prompt_set: prompt_set " in lines[2]
    steps = afd(lived.folder, "logs", "t", "--stage", "warmstart", "--lines", "100")
    assert re.search(r"step 400 of 400  \S+ s each  warmstart/loss=\S+", steps), steps
    whole = afd(lived.folder, "logs", "t", "--stage", "update", "--lines", "100")
    assert re.search(r"step 4 of 4  \S+ s each  update/loss=", whole), whole
    assert re.search(r"done in \S+ s \(all attempts: wall .*\): student_weights \w+, ", whole)
    logs = list((lived.folder / "runs" / "t" / "logs").glob("*.log"))
    assert len(logs) == 15
    for log in logs:
        said = log.read_text()
        assert " starts on " in said and "Traceback" not in said, said
