"""One harvest from a remote teacher: the engine with everything it needs, opened and closed."""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from afd.clips import quarantine
from afd.clips.requests import ClipRequest, teacher_spec
from afd.config import RemoteTeacher
from afd.harvest.addresses import Allowed
from afd.harvest.clerk import Clerk
from afd.harvest.desk import Desk, incoming
from afd.harvest.download import Downloaded, Policy, fetch
from afd.harvest.engine import Engine
from afd.harvest.http import client, download_client
from afd.harvest.judging import Judge
from afd.harvest.live import Live, Stop
from afd.harvest.pace import Pace
from afd.store import Store, told
from afd.teachers import exchange, remote
from afd.teachers.remote import Video
from afd.teachers.vendors import build

Result = TypeVar("Result")
TOGETHER_S = 1.0


@dataclass(frozen=True)
class Harvested:
    """How a run ended; which clips there are only the vault says."""

    stop: Stop | None
    live: Live


def harvest(
    teacher: RemoteTeacher,
    store: Store,
    wants: Sequence[ClipRequest],
    answered: Collection[str] = (),
    on_change: Callable[[Live], None] | None = None,
) -> Harvested:
    """Order, watch and keep clips until every want has one or an end, or something stops it.

    `answered`: slots of wants that have their clip (afd/clips/lookup.py). Ctrl-C and SIGTERM
    stop it with everything kept. Errors: StoreError, LedgerError.
    """
    with told(store.root):
        return _run(_harvest(teacher, store, wants, answered, on_change))


async def _harvest(
    teacher: RemoteTeacher,
    store: Store,
    wants: Sequence[ClipRequest],
    answered: Collection[str],
    on_change: Callable[[Live], None] | None,
) -> Harvested:
    access = teacher.access
    vendor, policy = build(teacher), Policy(allowed_hosts(teacher))
    engine = Engine(on_change)
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(client(2 * access.in_flight + 4))
        videos = await stack.enter_async_context(download_client())
        clerk = await stack.enter_async_context(Clerk(store.root))
        judge = stack.enter_context(Judge())

        async def fetch_video(video: Video, key: str) -> Downloaded:
            headers = vendor.auth_headers() if video.headers_needed else None
            return await fetch(videos, video.url, incoming(store), key, policy, headers)

        def put_aside(file: Path, reason: str, about: dict[str, Any]) -> object:
            return quarantine.put(store, file, reason, about, exchange.secrets_in(sent()))

        def sent() -> dict[str, str]:
            with contextlib.suppress(remote.RemoteError):
                return vendor.auth_headers()
            return {}

        desk = Desk(
            teacher=teacher,
            asked=teacher_spec(teacher),
            vendor=vendor,
            clerk=clerk,
            store=store,
            http=http,
            fetch=fetch_video,
            judge=judge,
            put_aside=put_aside,
            floor=engine,
            pace=Pace(access.requests_per_minute),
        )
        stack.enter_context(_stopping(engine))
        stop = await engine.run(desk, wants, answered)
    return Harvested(stop, engine.live)


def allowed_hosts(teacher: RemoteTeacher) -> Allowed:
    """Where videos may come from: the hosts of params, or the API's own."""
    host = urlsplit(teacher.access.base_url).hostname or ""
    named = teacher.access.video_hosts
    # Other ports of this machine only where params name it: by itself a server shows its own.
    is_here = bool(named) and teacher.access.base_url.startswith("http:")
    return Allowed(named or (host,), loopback=is_here, own=teacher.access.base_url)


@contextlib.contextmanager
def _stopping(engine: Engine) -> Iterator[None]:
    """The first signal stops with everything in order, a later one at once (KeyboardInterrupt).

    Signals that come together (a terminal and a scheduler may both send one) are one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, run = asyncio.get_running_loop(), asyncio.current_task()

    told_at: float | None = None

    def stop() -> None:
        nonlocal told_at
        now = time.monotonic()
        if told_at is None:
            told_at = now
        elif now - told_at > TOGETHER_S and run is not None:
            run.cancel()
        engine.stop("interrupted", "interrupted", hard=True)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """In this thread, or beside a loop that runs in it already (Prefect's)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        try:
            return asyncio.run(work)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    with ThreadPoolExecutor(1, "harvest") as beside:
        return beside.submit(asyncio.run, work).result()
