"""Engine of a harvest: concurrent orders within the limits, until no order is open.

Stops are of two kinds. Soft (no credit, budget spent, replies lost): nothing new is sent, paid
orders are finished. Hard (key refused, disk full, interrupted): all orders keep their state in the
ledger. In both cases the same command goes on from there.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

from afd.clips.lookup import find_clips
from afd.clips.requests import ClipRequest, distinct, order_key
from afd.harvest.budget import format_usd
from afd.harvest.context import RunContext, StopReason
from afd.harvest.deliver import deliver
from afd.harvest.ledger import Claim, Ledger, LostOrderError, TaskTakenError
from afd.harvest.order import OrderRow, adapter_order
from afd.harvest.owners import BEAT_S
from afd.harvest.poll import poll_once, poll_until_end, record_end
from afd.harvest.progress import HarvestProgress, Stop
from afd.harvest.states import AT_VENDOR, OWNED, OrderState, TransitionError
from afd.harvest.submit import UnwrittenTaskError, submit, task_columns
from afd.store import StoreError
from afd.teachers.vendors import protocol

TICK_S = 0.5  # between two reads of other processes' changes
MAX_DELIVERIES = 8  # concurrent downloads and inspections; they hold no slot of the vendor
ANSWER_S = 20.0  # wait of a stop for the answers of sent POSTs


class Engine:
    """One run over some requests; `on_change` gets the live numbers about twice a second."""

    def __init__(self, on_change: Callable[[HarvestProgress], None] | None = None) -> None:
        self.live = HarvestProgress(0)
        self.stopped: Stop | None = None
        self._on_change = on_change
        self._wants: dict[str, ClipRequest] = {}  # by request_id
        self._pending: deque[str] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._at_vendor: set[str] = set()
        self._posting: set[str] = set()  # claimed, or with a sent POST
        self._elsewhere: dict[str, OrderState] = {}  # owned by another process: last state
        self._is_poor = False
        self._wake = asyncio.Event()
        self._halt = asyncio.Event()
        self._delivering = asyncio.Semaphore(MAX_DELIVERIES)
        self._error: BaseException | None = None

    # ---------------------------------------------------------------- EngineControl

    def moved(self, row: OrderRow, before: OrderState) -> None:
        if row.request_id in self._wants:
            self.live.moved(before, row)
        self._is_poor = False  # ended orders may have released some budget
        self._wake.set()

    def freed(self, row: OrderRow) -> None:
        self._at_vendor.discard(row.key)
        self._wake.set()

    def report(self, news: str) -> None:
        self.live.news = news

    def stop(self, reason: StopReason, text: str, *, hard: bool = False) -> None:
        if self.stopped is None or (hard and not self.stopped.is_hard):
            self.stopped = Stop(reason, text, hard)
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
        self, context: RunContext, requests: Sequence[ClipRequest], answered: Collection[str] = ()
    ) -> Stop | None:
        """Work until each request has a clip or an end; return the stop if there was one.

        One run a store and provider: a second waits for the first. `answered` holds the request_ids
        with a clip (afd/clips/lookup.py). Raises LedgerError, StoreError (a full disk), and bugs.
        """
        self._context = context
        self._wants = {request.request_id: request for request in distinct(requests)}
        await context.in_ledger(Ledger.begin_work)
        beating = asyncio.create_task(self._beat())
        beating.add_done_callback(lambda task: self._ended("", task))
        try:
            if await self._wait_for_turn(len(self._wants)):
                found = await asyncio.to_thread(find_clips, context.store, context.spec, requests)
                answered = found.keys()
            if self._halt.is_set():
                return self.stopped
            left = await context.in_ledger(lambda ledger: ledger.take_over(context.spec))
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

    async def _wait_for_turn(self, num_wanted: int) -> bool:
        """Wait until no other run harvests this provider into this store; return True if one did.

        A run whose process dies is over at once on this machine, after SILENT_S on another.
        """
        context, has_waited = self._context, False
        provider = context.spec.provider
        self.live = HarvestProgress(num_wanted, cap=context.cap)
        while other := await context.in_ledger(lambda ledger: ledger.enter(provider)):
            has_waited = True
            since = time.strftime("%H:%M:%S", time.localtime(other.since))
            self.report(
                f"another harvest of {provider} works on this store since {since}: process "
                f"{other.pid} on {other.host}; this one waits for its end"
            )
            await self._show_progress()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._halt.wait(), TICK_S)
            if self._halt.is_set():
                break
        return has_waited

    async def _sort(self, answered: Collection[str]) -> None:
        """Sort the requests: done, new rows, orders to send, tasks to poll."""
        context, live = self._context, HarvestProgress(len(self._wants), cap=self._context.cap)
        last_attempts = await context.in_ledger(lambda ledger: ledger.last_attempts(context.spec))
        fresh: list[tuple[ClipRequest, int]] = []
        for request in self._wants.values():
            if request.request_id in answered:
                live.num_in_store += 1
                continue
            attempt, state = last_attempts.get(request.request_id, (0, None))
            key = order_key(request.request_id, attempt, seeded=context.spec.seeded)
            if state is None:
                fresh.append((request, 0))
                state = "planned"
            elif state == "refused_output" and attempt < context.teacher.num_retries:
                fresh.append((request, attempt + 1))
                key = order_key(request.request_id, attempt + 1, seeded=context.spec.seeded)
                state = "planned"
            if state == "verified":  # but its clip is in no shard and not in the library
                live.missing += 1
                continue
            live.states[state] += 1
            if state == "planned":
                self._pending.append(key)
            elif state == "stalled":
                self._start(key, self._look_again(key))
            elif state in OWNED:
                self._elsewhere[key] = state
        await context.in_ledger(lambda ledger: ledger.plan(context.spec, fresh))
        self.live = live

    def _resume_all(self, rows: Sequence[OrderRow]) -> None:
        """Resume all open orders, requested here or not: they are paid."""
        for row in rows:
            if row.key not in self._tasks:
                self._elsewhere.pop(row.key, None)
                if row.state in AT_VENDOR:
                    self._at_vendor.add(row.key)
                self._start(row.key, self._resume(row))

    async def _loop(self) -> None:
        """Send orders within the limits, until none is left."""
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
        """Renew the heartbeat during the whole run: a listing alone may take minutes."""
        while True:
            await asyncio.sleep(BEAT_S)
            await self._context.in_ledger(Ledger.beat)

    async def _attend(self) -> None:
        """Show progress and read other processes' changes, beside the orders."""
        context, looked_at = self._context, time.monotonic()
        while True:
            await self._show_progress()
            await self._watch_others()
            if time.monotonic() - looked_at > BEAT_S:
                looked_at = time.monotonic()
                self._resume_all(
                    await context.in_ledger(lambda ledger: ledger.take_over(context.spec))
                )
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
        """Start as many orders as there are slots; a backlog of deliveries delays new ones."""
        in_flight = self._context.teacher.access.in_flight
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
            self.report(str(error))
        elif isinstance(error, UnwrittenTaskError) and self._error is not None:
            self._error = UnwrittenTaskError(
                f"{error}\n{self._error}"
            )  # each text has a paid task's id
        elif error is not None and self._error is None:
            self._error = error
            reason: StopReason = "disk" if isinstance(error, OSError | StoreError) else "failure"
            self.stop(reason, str(error), hard=True)

    async def _end_tasks(self) -> None:
        """Wait for the answers of sent POSTs; cancel all other tasks."""
        self._halt.set()
        posting = [self._tasks[key] for key in self._posting if key in self._tasks]
        if posting:
            await asyncio.wait(posting, timeout=ANSWER_S)
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _end_work(self) -> None:
        """Release all orders; a StoreError after an earlier error is dropped, being the same."""
        try:
            await self._context.in_ledger(Ledger.end_work)
            await self._show_progress()
        except StoreError:
            if self._error is None:
                raise

    # ---------------------------------------------------------------- one order

    async def _order(self, key: str) -> None:
        """Run a planned order from its claim to its end."""
        context, access = self._context, self._context.teacher.access
        await context.pace.turn(is_creation=True)
        if self.stopped is not None:
            self._pending.appendleft(key)
            return
        self._posting.add(key)
        claim, row = await context.in_ledger(
            lambda ledger: ledger.claim(key, context.reserve, context.cap, access.in_flight)
        )
        if claim != "claimed":
            await self._unclaimed(key, claim)
            return
        self.moved(row, "planned")
        if self.stopped is not None:
            row = await context.move(row, "planned")
        else:
            row = await submit(context, row)
        self._posting.discard(key)
        if row.state == "planned":
            self._pending.appendleft(key)
        elif row.state == "submitted":
            await self._finish(*await poll_until_end(context, row))

    async def _unclaimed(self, key: str, claim: Claim) -> None:
        """Put back an order that cannot be sent now."""
        self._posting.discard(key)
        if claim == "taken":
            self._elsewhere[key] = "planned"
            return
        self._pending.appendleft(key)
        if claim == "no_budget":
            self._is_poor = True
        else:  # tasks of other processes fill the slots
            await self.sleep(TICK_S)

    async def _resume(self, row: OrderRow) -> None:
        """Resume an order of an earlier run."""
        progress = None
        if row.state in AT_VENDOR:
            row, progress = await poll_until_end(self._context, row, at_once=True)
        await self._finish(row, progress)

    async def _finish(self, row: OrderRow, progress: protocol.Progress | None) -> None:
        self.freed(row)
        if row.state in ("succeeded", "downloaded"):
            async with self._delivering:
                row = await deliver(self._context, row, progress)
        if row.state == "refused_output" and row.attempt < self._context.teacher.num_retries:
            await self._try_again(row)

    async def _try_again(self, row: OrderRow) -> None:
        """Plan another attempt after a refused output: a new order, seed and reservation."""
        context, request = self._context, self._wants.get(row.request_id)
        if request is None:
            return
        await context.in_ledger(
            lambda ledger: ledger.plan(context.spec, [(request, row.attempt + 1)])
        )
        self.live.states["planned"] += 1
        self._pending.append(order_key(row.request_id, row.attempt + 1, seeded=context.spec.seeded))

    async def _look_again(self, key: str) -> None:
        """Poll a stalled task once: the vendor may have finished it."""
        context = self._context
        row = await context.in_ledger(lambda ledger: ledger.row(key))
        if row.task_id is None:
            return
        progress = await poll_once(context, row)
        if progress.state not in ("queued", "running", "unknown"):
            with contextlib.suppress(TransitionError):  # another run may have ended it by now
                row = await record_end(context, row, progress, by_hand=True)
            await self._finish(row, progress)

    async def _find_ambiguous(self) -> list[OrderRow]:
        """Return ambiguous orders whose task the vendor's listing has."""
        context = self._context
        vendor = context.vendor
        if not isinstance(vendor, protocol.ListingTeacher):
            return []
        found: list[OrderRow] = []
        lost = await context.in_ledger(
            lambda ledger: ledger.of_provider(context.spec, ("ambiguous",))
        )
        for row in lost:
            if self._halt.is_set():
                break
            task = await self._found(vendor, row)
            if task is not None:
                found_now = {"submitted_at": time.time(), "reason": "found in the vendor's list"}
                # Another run may have found it first; then the order is its own.
                with contextlib.suppress(LostOrderError, TransitionError, TaskTakenError):
                    moved = await context.move(
                        row, "submitted", by_hand=True, **task_columns(task), **found_now
                    )
                    found.append(moved)
        return found

    async def _found(self, vendor: protocol.ListingTeacher, row: OrderRow) -> protocol.Task | None:
        """Return an order's task by the listing; None if an order in flight has the same prompt."""
        context = self._context
        leaving = await context.in_ledger(
            lambda ledger: ledger.of_provider(context.spec, ("submitting",))
        )
        if any(other.prompt == row.prompt for other in leaving):
            return None
        spec = await context.in_ledger(lambda ledger: ledger.spec(row.spec_id))
        taken = await context.in_ledger(lambda ledger: ledger.task_ids(spec))
        await context.pace.turn()
        try:
            order = adapter_order(row.request_id, row.prompt, row.attempt, spec)
            return await vendor.find(context.http, order, taken, row.planned_at)
        except protocol.UnauthorisedError as error:
            self.stop("unauthorised", error.text, hard=True)
        except protocol.RemoteError as error:
            self.report(f"order {row.key[:12]} is ambiguous and cannot be looked up: {error.text}")
        return None

    # ---------------------------------------------------------------- other processes

    async def _watch_others(self) -> None:
        """Read the orders of other processes; take those that are planned again."""
        keys = list(self._elsewhere)
        for row in await self._context.in_ledger(lambda ledger: [ledger.row(key) for key in keys]):
            if row.state != self._elsewhere[row.key]:
                self.moved(row, self._elsewhere[row.key])
            self._elsewhere[row.key] = row.state
            if row.state not in OWNED:
                del self._elsewhere[row.key]
            if row.state == "planned":
                self._pending.append(row.key)
                self._wake.set()

    async def _why_poor(self) -> str:
        context = self._context
        money = await context.in_ledger(lambda ledger: ledger.money(context.spec.provider))
        return (
            f"spent {format_usd(money.spent)} + reserved {format_usd(money.reserved)} + next "
            f"{format_usd(context.reserve)} would exceed teacher.access.budget_usd "
            f"{format_usd(context.cap)}"
        )

    async def _show_progress(self) -> None:
        context = self._context
        money = await context.in_ledger(lambda ledger: ledger.money(context.spec.provider))
        self.live.spent, self.live.reserved = money.spent, money.reserved
        if self._on_change is not None:
            self._on_change(self.live)
