"""One harvest from a remote teacher: opens the engine's resources and closes them."""

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
from afd.harvest.context import RunContext, incoming
from afd.harvest.download import Downloaded, Policy, fetch
from afd.harvest.engine import Engine
from afd.harvest.http import client, download_client
from afd.harvest.inspect_clip import ClipInspector
from afd.harvest.ledger_thread import LedgerThread
from afd.harvest.pace import Pace
from afd.harvest.progress import HarvestProgress, Stop
from afd.store import Store, disk_errors
from afd.teachers.vendors import exchange, protocol
from afd.teachers.vendors.build import build
from afd.teachers.vendors.protocol import Video

Result = TypeVar("Result")
TOGETHER_S = 1.0


@dataclass(frozen=True)
class HarvestResult:
    """End of a run; the library has its clips."""

    stop: Stop | None
    live: HarvestProgress


def harvest(
    teacher: RemoteTeacher,
    store: Store,
    requests: Sequence[ClipRequest],
    answered: Collection[str] = (),
    on_change: Callable[[HarvestProgress], None] | None = None,
) -> HarvestResult:
    """Order, poll and store clips until each request has a clip or an end, or a stop.

    `answered`: the request_ids with a clip (afd/clips/lookup.py). Ctrl-C and SIGTERM stop the run
    without a loss. Errors: StoreError, LedgerError.
    """
    with disk_errors(store.root):
        return _run(_harvest(teacher, store, requests, answered, on_change))


async def _harvest(
    teacher: RemoteTeacher,
    store: Store,
    requests: Sequence[ClipRequest],
    answered: Collection[str],
    on_change: Callable[[HarvestProgress], None] | None,
) -> HarvestResult:
    access = teacher.access
    vendor, policy = build(teacher), Policy(allowed_hosts(teacher))
    engine = Engine(on_change)
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(client(2 * access.in_flight + 4))
        videos = await stack.enter_async_context(download_client())
        in_ledger = await stack.enter_async_context(LedgerThread(store.root))
        inspect = stack.enter_context(ClipInspector())

        async def fetch_video(video: Video, key: str) -> Downloaded:
            headers = vendor.auth_headers() if video.headers_needed else None
            return await fetch(videos, video.url, incoming(store), key, policy, headers)

        def put_aside(file: Path, reason: str, about: dict[str, Any]) -> str:
            secrets = exchange.secrets_to_hide(sent())
            return quarantine.put(store, file, reason, about, secrets).description

        def sent() -> dict[str, str]:
            with contextlib.suppress(protocol.RemoteError):
                return vendor.auth_headers()
            return {}

        context = RunContext(
            teacher=teacher,
            spec=teacher_spec(teacher),
            vendor=vendor,
            in_ledger=in_ledger,
            store=store,
            http=http,
            fetch=fetch_video,
            inspect=inspect,
            put_aside=put_aside,
            engine=engine,
            pace=Pace(access.requests_per_minute),
        )
        stack.enter_context(_stopping(engine))
        stop = await engine.run(context, requests, answered)
    return HarvestResult(stop, engine.live)


def allowed_hosts(teacher: RemoteTeacher) -> Allowed:
    """Return the hosts that videos may come from: those of params, or the API's own."""
    host = urlsplit(teacher.access.base_url).hostname or ""
    named = teacher.access.video_hosts
    # Other ports of this machine only if params name it: a server's own URLs have its own port.
    is_here = bool(named) and teacher.access.base_url.startswith("http:")
    return Allowed(named or (host,), loopback=is_here, own=teacher.access.base_url)


@contextlib.contextmanager
def _stopping(engine: Engine) -> Iterator[None]:
    """Stop in order at the first signal, at once at a later one (KeyboardInterrupt).

    Signals that come together (a terminal and a scheduler may both send one) are one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, run = asyncio.get_running_loop(), asyncio.current_task()

    first_signal_at: float | None = None

    def stop() -> None:
        nonlocal first_signal_at
        now = time.monotonic()
        if first_signal_at is None:
            first_signal_at = now
        elif now - first_signal_at > TOGETHER_S and run is not None:
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
    """Run `work` in this thread, or in another one if an event loop (Prefect's) runs here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        try:
            return asyncio.run(work)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    with ThreadPoolExecutor(1, "harvest") as beside:
        return beside.submit(asyncio.run, work).result()
