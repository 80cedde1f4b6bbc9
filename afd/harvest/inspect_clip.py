"""Inspection of deliveries in child processes, since a file may be hostile."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from afd.harvest.provenance import InspectionResult
from afd.video.inspection import Inspectors, ValidClip

MAX_PROCESSES = 4  # 20 clips of 5 s and 720p a second between them: no vendor is that fast


class ClipInspector:
    """Pool of inspectors that does not block the event loop. Use it as a context."""

    def __init__(self) -> None:
        size = min(MAX_PROCESSES, len(os.sched_getaffinity(0)))
        self._inspectors = Inspectors(size)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="inspect")

    def __enter__(self) -> "ClipInspector":
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

    async def __call__(self, file: Path) -> InspectionResult:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._inspect, file)

    def _inspect(self, file: Path) -> InspectionResult:
        found = self._inspectors.inspect(file)
        facts = asdict(found.facts) if found.facts else {}
        return InspectionResult(None if isinstance(found, ValidClip) else found.reason, facts)
