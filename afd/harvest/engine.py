"""The harvest of many wants: orders side by side, never more than allowed, until nothing is open.

Stops are of two kinds. Soft (no credit, budget spent, replies lost): nothing new is sent, what is
paid is finished. Hard (key refused, disk full, interrupted): everything is left as the ledger has
it. Either way the same command goes on from there.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

from afd.clips.requests import ClipRequest, distinct, order_key
from afd.harvest.delivering import deliver
from afd.harvest.desk import Desk, Why
from afd.harvest.ledger import Claim, Ledger, LostOrderError, TaskTakenError
from afd.harvest.live import Live, Stop
from afd.harvest.money import shown
from afd.harvest.owners import BEAT_S
from afd.harvest.rows import Row, adapter_order
from afd.harvest.submitting import UnwrittenTaskError, named, submit
from afd.harvest.transitions import AT_VENDOR, OWNED, OrderState, TransitionError
from afd.harvest.watching import look, settle, watch
from afd.store import StoreError
from afd.teachers import remote

TICK_S = 0.5  # how often the ledger is asked what other processes did
MAX_DELIVERIES = 8  # downloads and judgements at a time; they hold no slot of the vendor
ANSWER_S = 20.0  # how long a stop waits for the answers of POSTs that have left


class Engine:
    """One run over some wants. `on_change` is called about twice a second with the live numbers."""

    def __init__(self, on_change: Callable[[Live], None] | None = None) -> None:
        self.live = Live(0)
        self.stopped: Stop | None = None
        self._on_change = on_change
        self._wants: dict[str, ClipRequest] = {}  # by slot
        self._pending: deque[str] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._at_vendor: set[str] = set()
        self._posting: set[str] = set()  # claimed, or with a POST that has left
        self._elsewhere: dict[str, OrderState] = {}  # worked on by another process, as last seen
        self._is_poor = False
        self._wake = asyncio.Event()
        self._halt = asyncio.Event()
        self._delivering = asyncio.Semaphore(MAX_DELIVERIES)
        self._error: BaseException | None = None

    # ---------------------------------------------------------------- the floor of its orders

    def moved(self, row: Row, before: OrderState) -> None:
        if row.slot in self._wants:
            self.live.moved(before, row)
        self._is_poor = False  # settled orders may have freed some budget
        self._wake.set()

    def freed(self, row: Row) -> None:
        self._at_vendor.discard(row.key)
        self._wake.set()

    def say(self, news: str) -> None:
        self.live.news = news

    def stop(self, why: Why, told: str, *, hard: bool = False) -> None:
        if self.stopped is None or (hard and not self.stopped.is_hard):
            self.stopped = Stop(why, told, hard)
        if hard:
            self._halt.set()
        self._wake.set()

    async def sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._halt.wait(), max(seconds, 0.001))
        if self._halt.is_set():
            raise asyncio.CancelledError

    # ---------------------------------------------------------------- the run

    async def run(
        self, desk: Desk, wants: Sequence[ClipRequest], answered: Collection[str] = ()
    ) -> Stop | None:
        """Work until every want has a clip or an end, or something stops it; says what did.

        `answered` are slots of wants that have their clip (afd/clips/lookup.py).
        Raises what is nobody's outcome: LedgerError, StoreError (a full disk), a mistake of ours.
        """
        self._desk = desk
        self._wants = {want.slot: want for want in distinct(wants)}
        await desk.clerk(Ledger.begin_work)
        beating = asyncio.create_task(self._beat())
        beating.add_done_callback(lambda task: self._ended("", task))
        try:
            left = await desk.clerk(lambda ledger: ledger.take_over(desk.asked))
            left += await self._find_ambiguous()
            await self._sort(answered)
            self._resume_all(left)
            await self._loop()
        finally:
            await self._end_tasks()
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self._end_work()
        if self._error is not None:
            raise self._error
        return self.stopped

    async def _sort(self, answered: Collection[str]) -> None:
        """What every want needs: nothing, a row, a POST, or somebody who watches its task."""
        desk, live = self._desk, Live(len(self._wants), cap=self._desk.cap)
        standing = await desk.clerk(lambda ledger: ledger.standing(desk.asked))
        fresh: list[tuple[ClipRequest, int]] = []
        for want in self._wants.values():
            if want.slot in answered:
                live.kept += 1
                continue
            attempt, state = standing.get(want.slot, (0, None))
            key = order_key(want.slot, attempt, seeded=desk.asked.seeded)
            if state is None:
                fresh.append((want, 0))
                state = "planned"
            elif state == "refused_output" and attempt < desk.teacher.num_retries:
                fresh.append((want, attempt + 1))
                key = order_key(want.slot, attempt + 1, seeded=desk.asked.seeded)
                state = "planned"
            if state == "verified":  # but its clip is in no shard and not in the vault
                live.missing += 1
                continue
            live.states[state] += 1
            if state == "planned":
                self._pending.append(key)
            elif state == "stalled":
                self._start(key, self._look_again(key))
            elif state in OWNED:
                self._elsewhere[key] = state
        await desk.clerk(lambda ledger: ledger.plan(desk.asked, fresh))
        self.live = live

    def _resume_all(self, rows: Sequence[Row]) -> None:
        """Work on orders that were left open, wanted here or not: they are paid."""
        for row in rows:
            if row.key not in self._tasks:
                self._elsewhere.pop(row.key, None)
                if row.state in AT_VENDOR:
                    self._at_vendor.add(row.key)
                self._start(row.key, self._resume(row))

    async def _loop(self) -> None:
        """Send what may be sent, until nothing is left to do."""
        attending = asyncio.create_task(self._attend())
        attending.add_done_callback(lambda task: self._ended("", task))
        try:
            while not await self._is_over():
                self._wake.clear()
                self._submit_more()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), TICK_S)
        finally:
            attending.cancel()
            await asyncio.gather(attending, return_exceptions=True)

    async def _beat(self) -> None:
        """From the first look into the ledger to the last: a listing alone may take minutes."""
        while True:
            await asyncio.sleep(BEAT_S)
            await self._desk.clerk(Ledger.beat)

    async def _attend(self) -> None:
        """Beside the orders: numbers to watch, a look at other processes."""
        desk, looked_at = self._desk, time.monotonic()
        while True:
            await self._tell()
            await self._watch_others()
            if time.monotonic() - looked_at > BEAT_S:
                looked_at = time.monotonic()
                self._resume_all(await desk.clerk(lambda ledger: ledger.take_over(desk.asked)))
            await asyncio.sleep(TICK_S)

    async def _is_over(self) -> bool:
        if self._halt.is_set() or self._error is not None:
            return True
        if self._tasks:
            return False
        if self._pending and self._is_poor and self.stopped is None:
            self.stop("budget", await self._why_poor())
        return self.stopped is not None or not (self._pending or self._elsewhere)

    def _submit_more(self) -> None:
        """As many orders as there are slots; deliveries that pile up hold new ones back."""
        in_flight = self._desk.teacher.access.in_flight
        while (
            self._pending
            and self.stopped is None
            and not self._is_poor
            and len(self._at_vendor) < in_flight
            and len(self._tasks) < 2 * in_flight + MAX_DELIVERIES
        ):
            key = self._pending.popleft()
            self._at_vendor.add(key)
            self._start(key, self._order(key))

    def _start(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(key, None)
        self._at_vendor.discard(key)
        self._posting.discard(key)
        self._wake.set()
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, LostOrderError):
            self._elsewhere[key] = "unknown"
            self.say(str(error))
        elif isinstance(error, UnwrittenTaskError) and self._error is not None:
            self._error = UnwrittenTaskError(f"{error}\n{self._error}")  # each names a paid task
        elif error is not None and self._error is None:
            self._error = error
            why: Why = "disk" if isinstance(error, OSError | StoreError) else "failure"
            self.stop(why, str(error), hard=True)

    async def _end_tasks(self) -> None:
        """Answers of POSTs that have left are waited for; everything else is left where it is."""
        self._halt.set()
        posting = [self._tasks[key] for key in self._posting if key in self._tasks]
        if posting:
            await asyncio.wait(posting, timeout=ANSWER_S)
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _end_work(self) -> None:
        """Let go of everything. A disk says what it has said before: the first error is told."""
        try:
            await self._desk.clerk(Ledger.end_work)
            await self._tell()
        except StoreError:
            if self._error is None:
                raise

    # ---------------------------------------------------------------- one order

    async def _order(self, key: str) -> None:
        """A planned order, from its claim to its end."""
        desk, access = self._desk, self._desk.teacher.access
        await desk.pace.turn(is_creation=True)
        if self.stopped is not None:
            self._pending.appendleft(key)
            return
        self._posting.add(key)
        claim, row = await desk.clerk(
            lambda ledger: ledger.claim(key, desk.reserve, desk.cap, access.in_flight)
        )
        if claim != "claimed":
            await self._unclaimed(key, claim)
            return
        self.moved(row, "planned")
        if self.stopped is not None:
            row = await desk.move(row, "planned")
        else:
            row = await submit(desk, row)
        self._posting.discard(key)
        if row.state == "planned":
            self._pending.appendleft(key)
        elif row.state == "submitted":
            await self._finish(*await watch(desk, row))

    async def _unclaimed(self, key: str, claim: Claim) -> None:
        """An order that cannot be sent now."""
        self._posting.discard(key)
        if claim == "taken":
            self._elsewhere[key] = "planned"
            return
        self._pending.appendleft(key)
        if claim == "no_budget":
            self._is_poor = True
        else:  # other processes' tasks fill the slots
            await self.sleep(TICK_S)

    async def _resume(self, row: Row) -> None:
        """An order of an earlier run."""
        progress = None
        if row.state in AT_VENDOR:
            row, progress = await watch(self._desk, row, at_once=True)
        await self._finish(row, progress)

    async def _finish(self, row: Row, progress: remote.Progress | None) -> None:
        self.freed(row)
        if row.state in ("succeeded", "downloaded"):
            async with self._delivering:
                row = await deliver(self._desk, row, progress)
        if row.state == "refused_output" and row.attempt < self._desk.teacher.num_retries:
            await self._try_again(row)

    async def _try_again(self, row: Row) -> None:
        """A refused output, once more with another seed: another order, with its own budget."""
        desk, want = self._desk, self._wants.get(row.slot)
        if want is None:
            return
        await desk.clerk(lambda ledger: ledger.plan(desk.asked, [(want, row.attempt + 1)]))
        self.live.states["planned"] += 1
        self._pending.append(order_key(row.slot, row.attempt + 1, seeded=desk.asked.seeded))

    async def _look_again(self, key: str) -> None:
        """A stalled task: the vendor may have finished what was paid. One poll, no waiting."""
        desk = self._desk
        row = await desk.clerk(lambda ledger: ledger.row(key))
        if row.task_id is None:
            return
        progress = await look(desk, row)
        if progress.state not in ("queued", "running", "unknown"):
            with contextlib.suppress(TransitionError):  # another run may have settled it by now
                row = await settle(desk, row, progress, by_hand=True)
            await self._finish(row, progress)

    async def _find_ambiguous(self) -> list[Row]:
        """Orders whose answer was lost, found where the vendor lists its tasks."""
        desk = self._desk
        if not desk.vendor.can_list:
            return []
        found: list[Row] = []
        lost = await desk.clerk(lambda ledger: ledger.of_provider(desk.asked, ("ambiguous",)))
        for row in lost:
            if self._halt.is_set():
                break
            task = await self._found(row)
            if task is not None:
                told = {"submitted_at": time.time(), "reason": "found in the vendor's list"}
                # Another run that began now may have found it first: then it is that one's.
                with contextlib.suppress(LostOrderError, TransitionError, TaskTakenError):
                    moved = await desk.move(row, "submitted", by_hand=True, **named(task), **told)
                    found.append(moved)
        return found

    async def _found(self, row: Row) -> remote.Task | None:
        """The task of an order, unless it may be confused with one that leaves just now."""
        desk = self._desk
        leaving = await desk.clerk(lambda ledger: ledger.of_provider(desk.asked, ("submitting",)))
        if any(other.prompt == row.prompt for other in leaving):
            return None
        asked = await desk.clerk(lambda ledger: ledger.asked(row.asked))
        taken = await desk.clerk(lambda ledger: ledger.task_ids(asked))
        await desk.pace.turn()
        try:
            order = adapter_order(row.slot, row.prompt, row.attempt, asked)
            return await desk.vendor.find(desk.http, order, taken, row.planned_at)
        except remote.UnauthorisedError as error:
            self.stop("unauthorised", error.text, hard=True)
        except remote.RemoteError as error:
            self.say(f"order {row.key[:12]} is ambiguous and cannot be looked up: {error.text}")
        return None

    # ---------------------------------------------------------------- beside others

    async def _watch_others(self) -> None:
        """What another process finished is done; what it gave back can be taken."""
        keys = list(self._elsewhere)
        for row in await self._desk.clerk(lambda ledger: [ledger.row(key) for key in keys]):
            if row.state != self._elsewhere[row.key]:
                self.moved(row, self._elsewhere[row.key])
            self._elsewhere[row.key] = row.state
            if row.state not in OWNED:
                del self._elsewhere[row.key]
            if row.state == "planned":
                self._pending.append(row.key)
                self._wake.set()

    async def _why_poor(self) -> str:
        desk = self._desk
        money = await desk.clerk(lambda ledger: ledger.money(desk.asked.provider))
        return (
            f"spent {shown(money.spent)} + reserved {shown(money.reserved)} + next "
            f"{shown(desk.reserve)} would exceed teacher.access.budget_usd {shown(desk.cap)}"
        )

    async def _tell(self) -> None:
        desk = self._desk
        money = await desk.clerk(lambda ledger: ledger.money(desk.asked.provider))
        self.live.spent, self.live.reserved = money.spent, money.reserved
        if self._on_change is not None:
            self._on_change(self.live)
