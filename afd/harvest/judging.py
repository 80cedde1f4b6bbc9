"""Whether a delivery is a sound video: asked of child processes, for a file may be anything."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from afd.harvest.provenance import Verdict
from afd.video.inspection import Inspectors, Sound

MAX_PROCESSES = 4  # 20 clips of 5 s and 720p a second between them: no vendor is that fast


class Judge:
    """A pool of inspectors that does not hold up the event loop. Use it as a context."""

    def __init__(self) -> None:
        size = min(MAX_PROCESSES, len(os.sched_getaffinity(0)))
        self._inspectors = Inspectors(size)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="judge")

    def __enter__(self) -> "Judge":
        self._inspectors.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._inspectors.__exit__(kind, error, trace)

    async def __call__(self, file: Path) -> Verdict:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._judge, file)

    def _judge(self, file: Path) -> Verdict:
        said = self._inspectors.inspect(file)
        facts = asdict(said.facts) if said.facts else {}
        return Verdict(None if isinstance(said, Sound) else said.reason, facts)
