"""Live view of a running campaign: one overall bar over the stages that run now.

Nothing is printed while the block is rendered: one thread prints what is new, then draws the block
below it. A file, a pipe and TERM=dumb get the lines alone.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.commands.numbers import clock
from flows.commands.progress_lines import Progress, ProgressLines, activity_line, draws
from flows.jobs.records import lacks_nodes
from flows.progress import RunningStage
from flows.session import Session

DRAW_EVERY_S, LOOK_EVERY_S = 0.25, 1.0
LINE_EVERY_S = 20.0  # about what runs, in a file or a pipe
# The block is no wider: what fits the smallest usual window is not broken by a resize.
MAX_WIDTH, BAR_WIDTH, MIN_BAR_WIDTH = 80, 20, 4


@contextmanager
def live_view(session: Session, console: Console, last_round: int | None = None) -> Iterator[None]:
    """Show what runs until the end: a block on a terminal, lines in a file or a pipe.

    `last_round`: the last round of the command, None for a whole campaign.
    """
    progress = Progress(session, last_round)
    lines, ended = ProgressLines(progress, console), threading.Event()
    if not draws(console):
        with _beside(lambda: _write_lines(lines, ended), ended):
            yield
        lines.print_news()
        return
    # Only stderr is redirected: colorama, which DVC imports, keeps the stdout that it finds, and
    # writes a reset to it when the process ends.
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
        with _beside(lambda: _draw(lines, progress, live, ended), ended):
            yield
        lines.print_news()


@contextmanager
def _beside(loop: Callable[[], None], ended: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=loop, name="live-view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _draw(lines: ProgressLines, progress: Progress, live: Live, ended: threading.Event) -> None:
    with contextlib.suppress(OSError):  # the terminal is closed: nobody looks on
        while not ended.wait(DRAW_EVERY_S):
            lines.print_news()
            live.update(block(progress, live.console.width), refresh=True)


def _write_lines(lines: ProgressLines, ended: threading.Event) -> None:
    last = time.monotonic()
    with contextlib.suppress(OSError):  # the pipe's reader has gone
        while not ended.wait(LOOK_EVERY_S):
            lines.print_news()
            lines.print_waiting()
            lines.print_slow_activities()
            if time.monotonic() - last >= LINE_EVERY_S:
                last = time.monotonic()
                lines.print_running()


def block(progress: Progress, width: int) -> RenderableType:
    """Return the overall bar over a row a running stage, and the reasons of waiting jobs."""
    width = min(width, MAX_WIDTH)
    board = progress.session.progress
    running, activities = board.running(), board.activities()
    table = Table.grid(padding=(0, 2, 0, 0))
    for entry in running:
        table.add_row(*_stage(progress, entry))
    rest = [Text(activity_line(progress, one), style="dim") for one in activities]
    if not running and not activities:
        rest = [Text(progress.starts_next(), style="dim")]
    rows = [table] if running else []
    waiting = _waiting(progress, running)
    return Constrain(Group(_overall(progress, width), *rows, *rest, *waiting), width)


def _overall(progress: Progress, width: int) -> RenderableType:
    """Return the campaign's name where it fits, the bar, the numbers."""
    words, name = progress.words(), progress.session.name
    room = width - len(words) - 2
    if room < MIN_BAR_WIDTH:
        return Text(words)
    is_named = len(name) + 2 + BAR_WIDTH <= room
    room -= len(name) + 2 if is_named else 0
    bar = ProgressBar(total=1.0, completed=progress.share(), width=min(room, BAR_WIDTH))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(*([Text(name, style="bold")] if is_named else []), bar, words)
    return grid


def _stage(progress: Progress, entry: RunningStage) -> list[RenderableType]:
    steps = progress.steps(entry)
    done, total = steps or (0, 0)
    bar = ProgressBar(total=total or None, completed=done, width=BAR_WIDTH, pulse=steps is None)
    return [
        progress.label(entry.round_index),
        Text(entry.request.stage, style="bold"),
        bar,
        f"{done}/{total}" if steps else "",
        clock(time.monotonic() - entry.started),
    ]


def _waiting(progress: Progress, running: list[RunningStage]) -> list[RenderableType]:
    """Return the reasons for which jobs stand in the queue, each once."""
    reasons = dict.fromkeys(progress.reason(entry) for entry in running)
    return [
        Text(f"{reason}\n{progress.hint()}" if lacks_nodes(reason) else reason, style="yellow")
        for reason in reasons
        if reason
    ]
