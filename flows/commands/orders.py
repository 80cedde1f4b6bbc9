"""Order commands of `afd harvest`: plan, run, status, resolve."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from afd.clips.lookup import find_clips
from afd.clips.requests import ClipRequest, round_requests, teacher_spec
from afd.config import Params, RemoteTeacher
from afd.harvest import resolve, status
from afd.harvest.budget import format_usd
from afd.harvest.gather import missing_clips_error, paused_error
from afd.harvest.ledger import Ledger, LostOrderError
from afd.harvest.order import OrderRow, is_unknown_to_vendor
from afd.harvest.plan import Plan, plan
from afd.harvest.progress import HarvestProgress
from afd.harvest.run import harvest
from afd.harvest.schema import ledger_path
from afd.harvest.states import OWNED, WITHOUT_CLIP
from afd.prompts import read_jsonl
from afd.runtime.outcome import RefusedError
from afd.stages import requests
from afd.stages.execute import execute
from afd.store import Store
from afd.teachers.vendors.keys import read_key
from afd.teachers.vendors.protocol import UnauthorisedError
from afd.video.rhythm import rhythm_note
from flows.command_text import command
from flows.commands.consoles import console as stdout_console
from flows.commands.exit_codes import ExitCode
from flows.inputs import prompts_of, read_params
from flows.paths import CampaignPaths

MAX_LISTED = 20
KEY = 12  # digits of an order's key
STOPPED = (
    "stopped: every finished clip and every open task is kept in the ledger, nothing is paid "
    "twice; run the same command again to go on"
)
LINE_S = 10.0  # between lines of a pipe or file


@dataclass(frozen=True)
class Chosen:
    """A remote teacher, a store, and a request for every clip of the campaign, in its order."""

    params: Params
    teacher: RemoteTeacher
    store: Store
    clip_requests: Sequence[ClipRequest]

    @classmethod
    def read(
        cls,
        name: str,
        params: Path | None,
        overlays: Sequence[Path],
        overrides: Sequence[str],
        runs: Path,
        store: Path,
        limit: int | None,
        *,
        writes: bool = True,
    ) -> "Chosen":
        """Read params and prompts; raises ParamsError, RefusedError for a teacher without orders.

        `writes`: the prompt set is written into the store.
        """
        read = read_params(name, CampaignPaths(runs, store), params, overlays, overrides)
        if not isinstance(read.teacher, RemoteTeacher):
            raise RefusedError(
                f"teacher.kind is {read.teacher.kind!r}: only a remote teacher is ordered from; "
                "lay one over the params, e.g. --overlay params/teachers/seedance.yaml"
            )
        place = Store(store.resolve())
        prompt_set = requests.prompts(read).output
        if writes:
            made = execute(requests.prompts(read), place)
            prompts = read_jsonl(made.file("prompts.jsonl"))
        else:
            prompts = prompts_of(read, place)
        rounds = [
            requests.harvest_round(read, prompt_set, index) for index in range(read.num_rounds)
        ]
        harvests = [*rounds, requests.harvest_held_out(read, prompt_set)]
        clip_requests = [
            each for one in harvests for each in round_requests(one.params, read.teacher, prompts)
        ]
        return cls(read, read.teacher, place, clip_requests[:limit])


def show_plan(chosen: Chosen) -> None:
    """Print the plan, and the reasons that would stop it."""
    teacher, console = chosen.teacher, stdout_console()
    made = plan(chosen.store, teacher, chosen.clip_requests)
    table = Table(title=f"{teacher.provider}, {teacher.model}", show_header=False, box=None)
    for name, value in _plan_rows(made, teacher):
        table.add_row(name, value)
    console.print(table)
    if made.refused:
        console.print(_refusals_table(made.refused))
    params = chosen.params
    if note := rhythm_note(teacher.fps, params.fps, params.num_frames):
        console.print(f"note: {note}", soft_wrap=True)
    for warning in _warnings(made, teacher):
        console.print(Text(f"note: {warning}"), soft_wrap=True)


def _plan_rows(made: Plan, teacher: RemoteTeacher) -> Iterator[tuple[str, str]]:
    repeated = f", {made.num_repeated} wanted again and paid once" if made.num_repeated else ""
    yield "clips wanted", f"{made.num_wanted}{repeated}"
    yield "in the store", f"{made.num_in_store}"
    if made.num_missing:
        yield "paid, but gone", f"{made.num_missing}: see `afd harvest verify`"
    for state, number in made.states.items():
        yield state, f"{number}"
    yield "to order", f"{made.num_to_order}"
    yield "price of one", f"{format_usd(made.price)}, looked up on {teacher.access.price.date}"
    yield "cost", format_usd(made.cost)
    spent, reserved = format_usd(made.money.spent), format_usd(made.money.reserved)
    yield "budget", f"{format_usd(made.cap)}; spent {spent}, reserved {reserved}"
    how = "measured" if made.is_measured else "assumed until a pilot has shown it"
    took = f"{made.task_s:.0f} s a task, {how}; {teacher.access.in_flight} at a time"
    yield "expected", f"{made.hours:.1f} hours ({took})"


def _warnings(made: Plan, teacher: RemoteTeacher) -> Iterator[str]:
    if not made.is_affordable:
        yield (
            "the budget does not cover all of it: the harvest will stop there, with what was paid "
            "kept; teacher.access.budget_usd can be raised at any time"
        )
    if teacher.training_permitted != "yes":
        yield (
            f"teacher.training_permitted is {teacher.training_permitted!r}: clips may be "
            "harvested, training on them is refused"
        )
    if made.refused:
        yield (
            "refusals bend the teacher's distribution: prompts of those categories are learned "
            "from less"
        )
    if not made.is_measured and made.num_to_order > 3:
        yield "nothing was measured yet: begin with a pilot, `afd harvest run ... --limit 3`"


def check_orders(chosen: Chosen) -> None:
    """Print what would be ordered; raises RefusedError where the key's variable is not set."""
    try:
        read_key(chosen.teacher.access.key_variable)
    except UnauthorisedError as error:
        raise RefusedError(str(error)) from None
    show_plan(chosen)
    stdout_console().print("dry run: nothing was sent, paid or written", highlight=False)


def run_orders(chosen: Chosen) -> ExitCode:
    """Order what is missing; NO where an order is still open that may be paid.

    Raises HarvestPausedError where something stopped it.
    """
    console = stdout_console()
    answered = find_clips(chosen.store, teacher_spec(chosen.teacher), chosen.clip_requests)
    with _watched(console, chosen.teacher) as print_news:
        done = harvest(chosen.teacher, chosen.store, chosen.clip_requests, answered, print_news)
    console.print(_live_table(done.live, chosen.teacher))
    if done.stop is not None and done.stop.reason == "interrupted":
        raise KeyboardInterrupt(STOPPED)
    if done.stop is not None:
        error = paused_error(done.stop, chosen.teacher, chosen.store, done.live.missing)
        error.exit_code = ExitCode.LATER if error.reason == "asked_to_wait" else None
        raise error
    if done.live.missing:
        raise missing_clips_error(chosen.store, done.live.missing)
    if any(done.live.states[state] for state in ("ambiguous", "stalled", "quarantined")):
        status_command = command("harvest", "status", store=chosen.store.root)
        console.print(f"see `{status_command}` for what has no clip", soft_wrap=True)
    is_open = any(done.live.states[state] for state in (*OWNED, "ambiguous", "stalled"))
    return ExitCode.NO if is_open else ExitCode.DONE


@contextmanager
def _watched(
    console: Console, teacher: RemoteTeacher
) -> Iterator[Callable[[HarvestProgress], None]]:
    """Yield a function that prints progress: a live table, or on a pipe a line every LINE_S."""
    if console.is_terminal:
        with Screen(console=console, transient=True, auto_refresh=False) as screen:
            yield lambda live: screen.update(_live_table(live, teacher), refresh=True)
        return
    yield Lines(sys.stdout.write, LINE_S).print_news


class Lines:
    """Printer of progress without a terminal: one line a period, and each reason to wait."""

    def __init__(self, write: Callable[[str], object], period_s: float) -> None:
        self._write, self._period_s = write, period_s
        self._printed_at = -math.inf
        self._last = self._news = ""

    def print_news(self, live: HarvestProgress) -> None:
        """Print the numbers where a period has passed; a new reason at once."""
        now = time.monotonic()
        is_news = live.news not in ("", self._news)
        if not is_news and now - self._printed_at < self._period_s:
            return
        states = ", ".join(f"{n} {state}" for state, n in live.states.items() if n)
        line = (
            f"{live.num_in_store} kept before, {states or 'nothing open'}; "
            f"spent {format_usd(live.spent)} of {format_usd(live.cap)}"
        )
        line += f"; {live.news}" if live.news else ""
        self._printed_at, self._news = now, live.news
        if line != self._last:
            self._last = line
            self._write(f"{line}\n")
            sys.stdout.flush()


def _live_table(live: HarvestProgress, teacher: RemoteTeacher) -> Table:
    ended = live.num_ended
    table = Table(title=f"{teacher.provider}, {teacher.model}", show_header=False, box=None)
    table.add_row("clips", f"{live.num_in_store + live.states['verified']} of {live.num_wanted}")
    for state in status.STATES:
        if live.states[state] and state != "verified":
            table.add_row(state, str(live.states[state]))
    if live.missing:
        table.add_row("paid, but gone", str(live.missing))
    share = f" ({live.num_refused / ended:.0%} of what ended)" if ended else ""
    table.add_row("refused", f"{live.num_refused}{share}")
    spent, reserved = format_usd(live.spent), format_usd(live.reserved)
    money = f"{spent} spent, {reserved} reserved, cap {format_usd(live.cap)}"
    table.add_row("money", money)
    if live.per_hour is not None:
        table.add_row("rate", f"{live.per_hour:,.0f} clips an hour")
    if live.news:
        table.add_row("last", Text(live.news))
    return table


def show_status(root: Path) -> None:
    """Print the orders of every teacher in this store, and those that need a person."""
    console = stdout_console()
    if not ledger_path(root).exists():
        console.print(f"{root}: nothing was ordered yet", soft_wrap=True, highlight=False)
        return
    with Ledger(root) as ledger:
        for model_orders in status.orders_by_model(ledger):
            _print_model_orders(console, ledger, model_orders, Store(root.resolve()))
        waiting = ledger.rows(
            "(state IN ('ambiguous', 'stalled', 'quarantined', 'failed_final') "
            "OR (state = 'succeeded' AND reason IS NOT NULL)) AND NOT EXISTS (SELECT 1 FROM "
            "orders later WHERE later.slot = orders.slot AND later.attempt > orders.attempt) "
            "ORDER BY state, planned_at LIMIT ?",
            (MAX_LISTED,),
        )
    if waiting:
        console.print(orders_table(waiting))
        for line in _commands(waiting, root):
            console.print(line, highlight=False, soft_wrap=True)


def _commands(waiting: Sequence[OrderRow], root: Path) -> Iterator[str]:
    """Yield the commands that resolve these orders, each with the key of its first order."""

    def resolving(key: str, *answer: str) -> str:
        return command("harvest", "resolve", key[:KEY], *answer, store=root)

    unsure = [row for row in waiting if row.state == "ambiguous" or is_unknown_to_vendor(row)]
    ended = [row for row in waiting if row.state in WITHOUT_CLIP]
    if unsure:
        key = unsure[0].key
        yield f"{resolving(key, '--never-created')}   the provider has no such task"
        yield f"{resolving(key, '--created', 'ID')}   it has, under this id"
    if ended:
        yield f"{resolving(ended[0].key, '--again')}   to order once more"


def _print_model_orders(
    console: Console, ledger: Ledger, orders: status.ModelOrders, store: Store
) -> None:
    table = Table(title=f"{orders.provider}, {orders.model}", show_header=False, box=None)
    for state, number in orders.states.items():
        table.add_row(state, str(number))
    if gone := status.num_missing_clips(store, ledger, orders):
        table.add_row("paid, but gone", f"{gone}: see `afd harvest verify`")
    table.add_row("spent", format_usd(orders.spent))
    table.add_row("reserved", format_usd(orders.reserved))
    console.print(table)
    refused = status.refusals(ledger, orders.provider, orders.model)
    if any(one.rate for one in refused):
        console.print(_refusals_table(refused))


def _refusals_table(refused: Sequence[status.Refusals]) -> Table:
    rates = Table("category", "ended", "refused input", "refused output", "rate")
    for one in refused[:MAX_LISTED]:
        counts = (one.num_answered, one.num_refused_input, one.num_refused_output)
        rates.add_row(Text(one.category), *map(str, counts), f"{one.rate:.0%}")
    return rates


def orders_table(rows: Sequence[OrderRow]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("key", no_wrap=True, min_width=KEY)  # `resolve` takes no less
    for column in ("state", "task", "prompt", "reason"):
        table.add_column(column, overflow="fold")
    for row in rows:
        texts = (row.key[:KEY], row.state, row.task_id or "", row.prompt[:40], row.reason or "")
        table.add_row(*(Text(text) for text in texts))
    return table


def resolve_orders(
    keys: Sequence[str],
    created: str | None,
    root: Path,
    *,
    never_created: bool,
    again: bool,
    lost: bool,
) -> None:
    """Record a person's knowledge of orders; raises ResolveError, TransitionError."""
    chosen = [created is not None, never_created, again, lost]
    if sum(chosen) != 1 or (created is not None and len(keys) != 1):
        raise resolve.ResolveError(
            "say exactly one of --created ID (of one key), --never-created, --again, --lost"
        )
    store, console = Store(root.resolve()), stdout_console()
    with Ledger(store.root) as ledger:
        for row in [row for key in keys for row in resolve.find_all(ledger, key)]:
            try:
                if created is not None:
                    after = resolve.created(ledger, row, created)
                elif never_created:
                    after = resolve.never_created(ledger, row)
                elif again:
                    after = resolve.again(ledger, row)
                else:
                    after = resolve.lost(store, ledger, row)
            except LostOrderError as error:
                raise resolve.ResolveError(f"{error}; nothing was changed, try again") from None
            was, now = f"{row.key[:KEY]} {row.state}", f"{after.key[:KEY]} {after.state}"
            console.print(f"{was} -> {now}", highlight=False)
