"""Lines about a running campaign: one for every stage, alarm and round that ended.

They stay: above the live view on a terminal, alone in a file or a pipe. No line is cut; on a
terminal it holds as many facts as the window is wide.
"""

import time

from rich.console import Console
from rich.text import Text

from afd.evaluation.metric_specs import SHORT
from afd.runtime.mailbox import request_id
from flows.commands.forecast import seconds_left, try_planned_stages
from flows.commands.numbers import clock, rough_time, short_number
from flows.commands.status import hint_of_nodes
from flows.jobs.records import WORKER, JobRecords, lacks_nodes
from flows.progress import (
    Activity,
    FinishedStage,
    RunningStage,
    round_label,
    stage_progress,
    take_notices,
)
from flows.session import Session

STAGE_WIDTH = 9  # of the longest stage's name
NUM_FACTS = 4
SLOW_S = 3.0


class Progress:
    """Numbers of one campaign as it runs."""

    def __init__(self, session: Session, last_round: int | None = None) -> None:
        self.session = session
        self.planned = try_planned_stages(session.params, session.site.store, last_round)
        self._started = time.monotonic()

    def label(self, round_index: int | None) -> str:
        """Return the round's label, padded to the widest one."""
        width = max(len(round_label(None)), len(round_label(self.session.params.num_rounds - 1)))
        return f"{round_label(round_index):<{width}}"

    def steps(self, entry: RunningStage) -> tuple[int, int] | None:
        """Return (done, total) steps of a running stage."""
        return stage_progress(self.session.site.store, entry.request)

    def stages(self) -> tuple[int, int]:
        """Return (done, total) stages of the campaign."""
        num_done = len({one.fingerprint for one in self.session.progress.done})
        return num_done, max(len({one.fingerprint for one in self.planned}), num_done)

    def share(self) -> float:
        """Return the share of stages that is done, in [0, 1]; a running one counts by its steps."""
        num_done, num_all = self.stages()
        steps = [self.steps(entry) for entry in self.session.progress.running()]
        begun = sum(one[0] / one[1] for one in steps if one is not None and one[1])
        return min(1.0, (num_done + begun) / max(1, num_all))

    def words(self) -> str:
        """Return rounds, stages, time gone and, once it can be estimated, time left."""
        board = self.session.progress
        num_done, num_all = self.stages()
        rounds = f"{len(set(board.rounds))} of {self.session.params.num_rounds} rounds"
        gone = clock(time.monotonic() - self._started)
        words = f"{rounds}  {num_done} of {num_all} stages  {gone}"
        left = self._left()
        return words if left is None else f"{words}, {rough_time(left)} left"

    def starts_next(self) -> str:
        """Return a line about the stage that is about to begin."""
        finished = {one.fingerprint for one in self.session.progress.done}
        for one in self.planned:
            if one.fingerprint not in finished:
                return f"{self.label(one.round_index)}  {one.request.stage} starts"
        return "the results are written"

    def reason(self, entry: RunningStage) -> str:
        """Return SLURM's reason for which the stage's job, or the worker's, waits."""
        if self.session.site.cluster.executor != "slurm":
            return ""
        ledger = JobRecords(self.session.site.folder / "ledger")
        known = ledger.read(request_id(entry.request)) or ledger.read(WORKER)
        return "" if known is None else known.waits

    def hint(self) -> str:
        """Return the cure where the nodes of a job are down."""
        return hint_of_nodes(self.session.name, self.session.site.folder.parent)

    def _left(self) -> float | None:
        board = self.session.progress
        if not self.planned or board.began is None:
            return None
        now = time.monotonic()
        return seconds_left(self.planned, list(board.done), board.running(), now, board.began)


class ProgressLines:
    """Printer of each line once. One thread at a time calls it."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress, self._console = progress, console
        self._reasons: set[str] = set()  # of waiting jobs
        self._activities: set[Activity] = set()
        self._num_stages = self._num_rounds = self._num_notes = self._num_warnings = 0
        self._computed_s: dict[int | None, float] = {}  # by round, of what this process waited for

    def print_news(self) -> None:
        """Print the stages, alarms and rounds since the last call."""
        session = self._progress.session
        board = session.progress
        for running in board.running():
            take_notices(board, session.site.folder, session.site.store, running)
        done, notes, rounds = list(board.done), list(board.notes), list(board.rounds)
        for entry in done[self._num_stages :]:
            if not entry.was_there:
                before = self._computed_s.get(entry.round_index, 0.0)
                self._computed_s[entry.round_index] = before + entry.wall_s
                self._print_stage(entry)
        for note in notes[self._num_notes :]:
            text = Text(f"alarm  {note}", style="yellow")  # wrapped between words
            self._console.print(text, soft_wrap=not self._console.is_terminal)
        warnings = list(board.warnings)
        for line in warnings[self._num_warnings :]:
            self._print(f"warning  {line}", "yellow")
        self._num_warnings = len(warnings)
        for index in rounds[self._num_rounds :]:
            if index in self._computed_s:  # else all of it was there
                self._print_round(index)
        self._num_stages, self._num_notes, self._num_rounds = len(done), len(notes), len(rounds)

    def print_running(self) -> None:
        """Print each running stage, and the whole campaign."""
        for entry in self._progress.session.progress.running():
            done, total = self._progress.steps(entry) or (0, 0)
            steps = f"{done}/{total}  " if total else ""
            since = clock(time.monotonic() - entry.started)
            self._print(f"{self._head(entry.round_index, entry.request.stage)}  {steps}{since}")
        self._print_whole()

    def print_waiting(self) -> None:
        """Print a waiting job once, and again when its reason changes."""
        for entry in self._progress.session.progress.running():
            reason = self._progress.reason(entry)
            if reason and reason not in self._reasons:
                self._reasons.add(reason)
                self._print(f"{self._head(entry.round_index, entry.request.stage)}  {reason}")
                if lacks_nodes(reason):
                    self._print(f"  {self._progress.hint()}")

    def print_slow_activities(self) -> None:
        """Print once each activity of this process that takes longer than SLOW_S."""
        for activity in self._progress.session.progress.activities():
            is_slow = time.monotonic() - activity.started > SLOW_S
            if is_slow and activity not in self._activities:
                self._activities.add(activity)
                self._print(activity_line(self._progress, activity))

    def _print_stage(self, entry: FinishedStage) -> None:
        head = f"{self._head(entry.round_index, entry.request.stage)}  {entry.wall_s:7.1f} s"
        facts = [f"{key}={short_number(value)}" for key, value in entry.summary.items()]
        self._print(self._with_facts(head, facts[:NUM_FACTS]))

    def _print_round(self, index: int) -> None:
        head = f"{self._head(index, 'finished')}  {self._computed_s[index]:7.1f} s"
        done = self._progress.session.progress.done
        own = [one for one in done if one.round_index == index]
        measured = [one.summary for one in own if one.request.stage == "evaluate"]
        facts = [
            f"{key}={short_number(summary[key])}"
            for summary in measured[-1:]
            for key in SHORT
            if key in summary
        ]
        self._print(self._with_facts(head, facts), "bold")
        if not draws(self._console):
            self._print_whole()

    def _print_whole(self) -> None:
        name = self._progress.session.name
        self._print(f"{name}: {self._progress.words()}")

    def _with_facts(self, head: str, facts: list[str]) -> str:
        """Return `head` with as many whole facts as fit; with all of them outside a terminal."""
        line = head
        for fact in facts:
            if self._console.is_terminal and len(line) + 2 + len(fact) > self._console.width:
                break
            line += f"  {fact}"
        return line

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=True)

    def _head(self, round_index: int | None, what: str) -> str:
        return f"{self._progress.label(round_index)}  {what:<{STAGE_WIDTH}}"


def activity_line(progress: Progress, activity: Activity) -> str:
    """Return a line about work between stages, with its time so far."""
    since = clock(time.monotonic() - activity.started)
    return f"{progress.label(activity.round_index)}  {activity.name}  {since}"


def draws(console: Console) -> bool:
    """Return whether the output is a terminal that can redraw a block."""
    return console.is_terminal and not console.is_dumb_terminal
