"""Live view of a session that is played by hand: what stands in windows of three widths."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pyte
import pytest
from rich.console import Console

from afd.config import Cluster, Params
from afd.params import load_params
from afd.runtime.request import StageRequest
from afd.store import Store
from flows.campaign_page import PageWriter
from flows.commands import live_view
from flows.commands.forecast import Planned, planned_stages, seconds_left
from flows.commands.numbers import clock, rough_time
from flows.commands.progress_lines import Progress, ProgressLines
from flows.dispatch import build
from flows.jobs.site import Site
from flows.mlflow_runs.recorder import RunRecorder
from flows.paths import CampaignPaths
from flows.progress import FinishedStage
from flows.session import Session
from tests.flows.conftest import CLUSTER, PARAMS

SUMMARY = {"trajectory_error_px": 0.123456, "gravity": 0.15, "num_prompts": 4, "frechet": 1.0}
WIDTHS = (80, 100, 200)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """The tiny campaign after its start and one round; the second round's fit runs."""
    paths = CampaignPaths(tmp_path / "runs", tmp_path / "store")
    cluster = load_params(Cluster, CLUSTER, (), ["executor=in_process"])
    site = Site(Store(paths.store), paths.runs / "demo", cluster)
    recorder = RunRecorder("unused", site.folder, site.store)  # not opened: no thread, no database
    params = load_params(Params, PARAMS)
    page = PageWriter(site.folder, site.store.root, params, "unused")  # not asked for a page
    return Session("demo", params, site, build(site), recorder, page)


def play(session: Session) -> StageRequest:
    """Finish stages up to the second round's rollout; the stage that comes next."""
    planned = planned_stages(session.params, session.site.store)
    rest = [one for one in planned if one.round_index == 1]
    for one in planned[: planned.index(rest[0])]:
        finish(session, one, 2.0)
    session.progress.finish_round(0)
    finish(session, rest[0], 2.0)
    finish(session, rest[1], 2.0)
    return rest[2].request


def finish(session: Session, one: Planned, wall_s: float) -> None:
    with session.progress.computing(one.request, one.round_index):
        pass
    done = FinishedStage(
        one.request, one.round_index, wall_s, dict(SUMMARY), was_there=False, spent_s=wall_s
    )
    session.progress.finish(done)


def window(console: Console, width: int, rows: int = 40) -> list[str]:
    """What a terminal shows of all that was written so far."""
    assert isinstance(console.file, io.StringIO)
    screen = pyte.Screen(width, rows)
    pyte.Stream(screen).feed(console.file.getvalue().replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display if line.strip()]


@pytest.mark.parametrize("width", WIDTHS)
def test_lines_hold_whole_facts_and_the_block_stands_under_them(
    session: Session, width: int
) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    fit = play(session)
    progress = Progress(session)
    with session.progress.computing(fit, 1):
        ProgressLines(progress, console).print_news()
        console.print(live_view.block(progress, width))
    lines = window(console, width)
    facts = {
        80: "trajectory_error_px=0.123  gravity=0.15",
        100: "trajectory_error_px=0.123  gravity=0.15  num_prompts=4  frechet=1",
        200: "trajectory_error_px=0.123  gravity=0.15  num_prompts=4  frechet=1",
    }[width]
    assert lines[0] == f"campaign  prompts        2.0 s  {facts}"
    assert f"round 0   evaluate       2.0 s  {facts}" in lines
    (finished,) = [line for line in lines if "  finished " in line]
    assert finished == "round 0   finished      10.0 s  trajectory_error_px=0.123  gravity=0.15"
    bar, stage = lines[-2:]
    assert bar.endswith("1 of 2 rounds  10 of 15 stages  0:00, under 1 min left"), bar
    assert bar.startswith("━")
    assert stage.split() == ["round", "1", "fit", "━" * live_view.BAR_WIDTH, "0:00"]
    assert max(map(len, lines[-2:])) <= live_view.MAX_WIDTH


def test_nothing_is_printed_while_the_block_is_rendered(session: Session) -> None:
    """`rich` renders the block again for every line printed above it."""
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with live_view.live_view(session, console):
        fit = play(session)
        with session.progress.computing(fit, 1), session.progress.busy("recording it", 1):
            deadline = time.monotonic() + 60
            while "10 of 15 stages" not in "\n".join(window(console, 100)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    lines = window(console, 100)
    assert len(lines) == 11, lines  # ten stages and a round; the block is gone
    assert not [line for line in lines if "of 15 stages" in line]


@pytest.mark.parametrize("kind", ["file", "dumb"])
def test_where_nothing_can_be_drawn_lines_are_whole(
    session: Session, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    console = Console(file=io.StringIO(), width=60, force_terminal=kind == "dumb")
    with live_view.live_view(session, console):
        play(session)
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert "\x1b" not in written and "━" not in written
    assert "demo: 1 of 2 rounds  10 of 15 stages" in written
    if kind == "file":
        assert "2.0 s  trajectory_error_px=0.123  gravity=0.15  num_prompts=4  frechet=1" in written


def test_a_round_that_dvc_keeps_is_named_so(session: Session) -> None:
    play(session)
    console = Console(file=io.StringIO(), width=80)
    with session.progress.busy("DVC keeps its artifacts", 1):
        console.print(live_view.block(Progress(session), 80))
    assert isinstance(console.file, io.StringIO)
    assert "round 1   DVC keeps its artifacts  0:00" in console.file.getvalue()
    console.print(live_view.block(Progress(session), 80))
    assert "round 1   fit starts" in console.file.getvalue()


def test_time_left_is_known_once_every_kind_of_stage_that_is_left_has_one_behind_it(
    session: Session,
) -> None:
    planned = planned_stages(session.params, session.site.store)
    assert [one.round_index for one in planned] == [None] * 3 + [0] * 5 + [1] * 5 + [None] * 2
    done = [
        FinishedStage(one.request, one.round_index, 10.0, {}, was_there=False, spent_s=10.0)
        for one in planned
    ]
    assert seconds_left(planned, done[:7], [], now=70.0, began=0.0) is None  # no evaluation yet
    # Five stages of 10 s, and an evaluation of 4 prompts and 2 seeds after one of 2 and 1.
    assert seconds_left(planned, done[:8], [], now=80.0, began=0.0) == pytest.approx(50 + 40)
    # Twice the time goes by: half of it between the stages.
    assert seconds_left(planned, done[:8], [], now=160.0, began=0.0) == pytest.approx(180)
    # What was there before this session tells how long stages take, not how much lies between.
    before = [replace(one, was_there=True) for one in done[:8]]
    assert seconds_left(planned, before, [], now=9.0, began=0.0) == pytest.approx(90)
    assert seconds_left(planned, done, [], now=150.0, began=0.0) == 0.0


def test_times_promise_no_more_than_is_known() -> None:
    assert [rough_time(seconds) for seconds in (5, 100, 3000, 5400, 9000)] == [
        "under 1 min", "about 2 min", "about 50 min", "about 1 h 30 min", "about 2 h 30 min",
    ]  # fmt: skip
    assert [clock(seconds) for seconds in (7, 750, 3750)] == ["0:07", "12:30", "1:02:30"]
