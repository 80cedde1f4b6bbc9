"""What a person sees while a campaign runs, and the table it ends with."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from afd.stages.mailbox import request_id
from flows.board import Done, Running, progress
from flows.commands.status import hint_of_nodes
from flows.jobs.ledger import WORKER, Ledger, lacks_nodes
from flows.session import Session

WATCHED = (
    "trajectory_error_px",
    "gravity",
    "object_permanence",
    "interpenetration",
    "frechet_distance",
)
VERDICT_STYLE = {"pass": "green", "fail": "bold red", "not estimable": "yellow"}
REFRESH_PER_S = 4
LINE_EVERY_S = 20  # in a file or a pipe


class Screen:
    """The live view of one campaign: what runs, how far, since when, and the latest measurement."""

    def __init__(self, session: Session, console: Console) -> None:
        self._session, self._console = session, console
        self._started = time.monotonic()
        self._ledger = Ledger(session.site.folder / "ledger")
        self._waits_told: set[str] = set()
        self._num_told = self._num_said = 0

    def __rich__(self) -> RenderableType:
        self.tell_finished()
        running = self._session.board.now()
        grid = Table.grid(padding=(0, 2))
        for entry in running:
            told = progress(self._session.site.store, entry.request)
            done, total = told or (0, 0)
            waits = self._waits(entry)
            grid.add_row(
                _where(entry.round_index, self._session.params.num_rounds),
                Text(entry.request.stage, style="bold"),
                ProgressBar(total=total or None, completed=done, width=30, pulse=told is None),
                self._waiting(waits) if waits else f"{done}/{total}" if told else "",
                _clock(time.monotonic() - entry.started),
            )
        if not running:
            grid.add_row(Text("preparing", style="dim"))
        head = Text(f"campaign {self._session.name}   {_clock(time.monotonic() - self._started)}")
        return Group(head, grid, self._measured())

    def tell_finished(self) -> None:
        """A line for every stage finished since the last look."""
        done = self._session.board.done
        for entry in done[self._num_told :]:
            if not entry.was_there:
                line = self._line(entry)
                self._console.print(line, highlight=False, no_wrap=True, overflow="ellipsis")
        self._num_told = len(done)
        said = self._session.board.said
        for line in said[self._num_said :]:
            self._console.print(Text(f"alarm        {line}", style="yellow"), soft_wrap=True)
        self._num_said = len(said)

    def tell_running(self) -> None:
        """A line for every stage that is being computed."""
        for entry in self._session.board.now():
            where = _where(entry.round_index, self._session.params.num_rounds)
            done, total = progress(self._session.site.store, entry.request) or (0, 0)
            far = f"{done}/{total}" if total else ""
            since = _clock(time.monotonic() - entry.started)
            self._console.print(f"{where:<12} {entry.request.stage:<10} {far} {since}")

    def tell_waiting(self) -> None:
        """A line when a stage's job is seen to wait, and when its reason changes."""
        for entry in self._session.board.now():
            waits = self._waits(entry)
            if waits and waits not in self._waits_told:
                self._waits_told.add(waits)
                where = _where(entry.round_index, self._session.params.num_rounds)
                said = f"{where:<12} {entry.request.stage:<10} {waits}"
                self._console.print(said, markup=False, highlight=False, soft_wrap=True)
                if lacks_nodes(waits):
                    hint = hint_of_nodes(self._session.name, self._session.site.folder.parent)
                    self._console.print(f"  {hint}", markup=False, highlight=False, soft_wrap=True)

    def _waiting(self, waits: str) -> Text:
        hint = hint_of_nodes(self._session.name, self._session.site.folder.parent)
        return Text(f"{waits}\n{hint}" if lacks_nodes(waits) else waits, style="yellow")

    def _waits(self, entry: Running) -> str:
        """Why its job, or the worker's, stands in the queue."""
        if self._session.site.cluster.executor != "slurm":
            return ""
        known = self._ledger.read(request_id(entry.request)) or self._ledger.read(WORKER)
        return "" if known is None else known.waits

    def _line(self, done: Done) -> str:
        where = _where(done.round_index, self._session.params.num_rounds)
        facts = " ".join(f"{key}={_short(value)}" for key, value in list(done.summary.items())[:4])
        return f"{where:<12} {done.request.stage:<10} {done.wall_s:7.1f} s  {facts}"

    def _measured(self) -> Text:
        seen = [one for one in self._session.board.done if one.request.stage == "evaluate"]
        if not seen:
            return Text("")
        latest = seen[-1]
        known = [f"{n} {_short(latest.summary[n])}" for n in WATCHED if n in latest.summary]
        where = _where(latest.round_index, self._session.params.num_rounds)
        return Text(f"held out, {where}: {'  '.join(known)}", style="dim")


@contextmanager
def shown(session: Session, console: Console) -> Iterator[None]:
    """Keep people up to date: a live screen on a terminal, lines in a file or a pipe."""
    screen = Screen(session, console)
    with _live(screen, console) if console.is_terminal else _lines(screen):
        yield
    screen.tell_finished()


@contextmanager
def _live(screen: Screen, console: Console) -> Iterator[None]:
    with Live(screen, console=console, refresh_per_second=REFRESH_PER_S, transient=True):
        yield


@contextmanager
def _lines(screen: Screen) -> Iterator[None]:
    """A line when a stage is finished, and now and then one for what takes long."""
    ended = threading.Event()

    def tell() -> None:
        num_looks = 0
        while not ended.wait(1.0):
            num_looks += 1
            screen.tell_finished()
            screen.tell_waiting()
            if num_looks % LINE_EVERY_S == 0:
                screen.tell_running()

    thread = threading.Thread(target=tell, name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def results_table(summary: Path) -> RenderableType:
    """Every metric of teacher, base and student, and under it which targets are met."""
    content = json.loads(summary.read_bytes())
    table = _metrics_table(content)
    if "targets" not in content:  # left by earlier code; `afd campaign` adds them
        return table
    return Group(table, Text(), _targets_table(content["targets"]))


def _metrics_table(content: Mapping[str, Any]) -> Table:
    """Teacher, base, student, difference and interval of every metric."""
    seeds = ", ".join(map(str, content.get("noise_seeds", ())))
    title = f"held-out prompts: {content.get('num_prompts', '?')}   noise seeds: {seeds}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("metric", no_wrap=True)
    for name in ("teacher", "base", "student", "difference", "interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in content["metrics"].items():
        low, high = row.get("interval") or (None, None)
        interval = "not estimable" if low is None else f"[{low:.2g}, {high:.2g}]"
        cells = [_short(row.get(key)) for key in ("teacher", "base", "student", "difference")]
        table.add_row(name, *cells, interval.replace("[", r"\["))
    return table


def _targets_table(targets: Sequence[Mapping[str, Any]]) -> Table:
    """Verdict, measured number and limit of every target."""
    table = Table(title="targets", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("metric", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("measured", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("judged by")
    for target in targets:
        verdict = Text(target["verdict"], style=VERDICT_STYLE[target["verdict"]])
        numbers = (_short(target["value"]), _short(target["limit"]))
        table.add_row(target["name"], verdict, *numbers, target["rule"])
    return table


def _where(round_index: int | None, num_rounds: int) -> str:
    return "campaign" if round_index is None else f"round {round_index}/{num_rounds - 1}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _short(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
