"""The ledger in a thread of its own, so that no fsync holds up the orders beside it.

What is asked while the disk is busy with one commit is committed together with the next: sixteen
orders in flight cost about as many commits as one. Each piece of work is whole or undone by itself.
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
LINGER_S = 0.003  # an end and the claim of the place that it frees come this close together


@dataclass
class _Asked:
    work: Callable[[Ledger], Any]
    answer: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None


class Clerk:
    """An async context; `await clerk(work)` gives work(ledger) once that is on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="ledger", daemon=True)

    async def __aenter__(self) -> "Clerk":
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._asked.put(None)
        await asyncio.to_thread(self._thread.join)

    async def __call__(self, work: Callable[[Ledger], Answer]) -> Answer:
        """Errors: what `work` raises, then nothing of it is in the ledger; LedgerError.

        It is done even when nobody waits for it any more.
        """
        asked = _Asked(work, self._loop.create_future())
        self._asked.put(asked)
        return cast(Answer, await asked.answer)

    def _serve(self) -> None:
        ledger: Ledger | None = None
        while (first := self._asked.get()) is not None:
            time.sleep(LINGER_S)
            batch = [first, *self._waiting()]
            try:
                ledger = ledger or Ledger(self._root)
                with ledger.together():
                    for asked in batch:
                        _do(ledger, asked)
                        if asked.error is not None and ledger.is_rolled_back:
                            raise asked.error
            except BaseException as error:  # noqa: BLE001 (whoever asked is told, in its own thread)
                for asked in batch:
                    asked.error = asked.error or error
            self._loop.call_soon_threadsafe(_answer, batch)
        if ledger is not None:
            ledger.close()

    def _waiting(self) -> list[_Asked]:
        found: list[_Asked] = []
        while len(found) < MAX_TOGETHER:
            try:
                asked = self._asked.get_nowait()
            except queue.Empty:
                break
            if asked is None:
                self._asked.put(None)
                break
            found.append(asked)
        return found


def _do(ledger: Ledger, asked: _Asked) -> None:
    try:
        asked.result = asked.work(ledger)
    except Exception as error:  # noqa: BLE001 (told to whoever asked; the others go on)
        asked.error = error


def _answer(batch: list[_Asked]) -> None:
    for asked in batch:
        if asked.answer.done():  # nobody waits any more
            continue
        if asked.error is not None:
            asked.answer.set_exception(asked.error)
        else:
            asked.answer.set_result(asked.result)
