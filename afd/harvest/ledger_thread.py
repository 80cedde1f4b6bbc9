"""Thread that owns the ledger's connection, so that no fsync blocks the event loop.

Calls that arrive during one commit share the next commit: sixteen orders in flight cost about as
many commits as one. Each call has a savepoint of its own and is committed or undone alone.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from afd.harvest.ledger import Ledger

Answer = TypeVar("Answer")
MAX_TOGETHER = 64
LINGER_S = 0.003  # between an order's end and the claim of its slot: one commit for both


@dataclass
class _Work:
    work: Callable[[Ledger], Any]
    answer: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None


class LedgerThread:
    """Async context; `await in_ledger(work)` returns work(ledger) after its commit."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="ledger", daemon=True)

    async def __aenter__(self) -> "LedgerThread":
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def __call__(self, work: Callable[[Ledger], Answer]) -> Answer:
        """Run `work` in the thread, even if the caller is cancelled.

        Errors: those of `work`, which is then undone; LedgerError.
        """
        item = _Work(work, self._loop.create_future())
        self._queue.put(item)
        return cast(Answer, await item.answer)

    def _serve(self) -> None:
        ledger: Ledger | None = None
        while (first := self._queue.get()) is not None:
            time.sleep(LINGER_S)
            batch = [first, *self._waiting()]
            try:
                ledger = ledger or Ledger(self._root)
                with ledger.together():
                    for item in batch:
                        _do(ledger, item)
                        if item.error is not None and ledger.is_rolled_back:
                            raise item.error
            except BaseException as error:  # noqa: BLE001 (raised in the caller)
                for item in batch:
                    item.error = item.error or error
            self._loop.call_soon_threadsafe(_answer, batch)
        if ledger is not None:
            ledger.close()

    def _waiting(self) -> list[_Work]:
        found: list[_Work] = []
        while len(found) < MAX_TOGETHER:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._queue.put(None)
                break
            found.append(item)
        return found


def _do(ledger: Ledger, item: _Work) -> None:
    try:
        item.result = item.work(ledger)
    except Exception as error:  # noqa: BLE001 (raised in the caller; the others go on)
        item.error = error


def _answer(batch: list[_Work]) -> None:
    for item in batch:
        if item.answer.done():  # the caller was cancelled
            continue
        if item.error is not None:
            item.answer.set_exception(item.error)
        else:
            item.answer.set_result(item.result)
