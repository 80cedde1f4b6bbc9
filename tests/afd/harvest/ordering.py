"""Orders at a scripted vendor: a teacher, some wants, and harvests that may be killed."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from afd.clips.library import clip_paths
from afd.clips.lookup import find_clips
from afd.clips.requests import ClipRequest, clip_request, teacher_spec
from afd.config import RemoteTeacher
from afd.harvest.ledger import Ledger
from afd.harvest.order import OrderRow
from afd.harvest.run import HarvestResult, harvest
from afd.prompts import Prompt, prompt_id
from afd.store import Store
from tests.harvest_server.server import Server

KEY_VARIABLE = "AFD_TEST_KEY"
KEY = "CANARYKEY-0123456789"
PRICE_USD = 0.01


def teacher_at(server: Server, **changes: Any) -> RemoteTeacher:
    """Fast limits; `changes` go to the teacher or, by name, to its access."""
    access = {
        "base_url": server.base_url,
        "key_variable": KEY_VARIABLE,
        "price": {"usd_per_clip": PRICE_USD, "date": "2026-11-23"},
        "budget_usd": 5.0,
        "in_flight": 4,
        "requests_per_minute": 60_000.0,
        "deadline_min": 5.0,
        "video_hosts": (),
        "min_clip_share": 0.5,
    }
    values = {
        "kind": "remote",
        "provider": server.provider,
        "model": "owner/film" if server.provider in ("replicate", "fal") else "film-1",
        "parameters": {},
        "duration_s": 1.0,
        "fps": 16.0,
        "size": {"width": 64, "height": 64},
        "seeded": True,
        "clips_per_prompt": 1,
        "on_mismatch": "resample",
        "num_retries": 0,
        "training_permitted": "yes",
        "terms": {"url": "https://example.com/terms", "date": "2026-11-23"},
    }
    access |= {name: value for name, value in changes.items() if name in access}
    values |= {name: value for name, value in changes.items() if name not in access}
    return RemoteTeacher.model_validate(values | {"access": access})


def wants_of(teacher: RemoteTeacher, *texts: str) -> list[ClipRequest]:
    """One sample of each."""
    digest = teacher_spec(teacher).digest
    return [clip_request(digest, Prompt(prompt_id(text), text, "train"), 0) for text in texts]


def rows(store: Store) -> dict[str, OrderRow]:
    """By prompt; the last attempt."""
    with Ledger(store.root) as ledger:
        return {row.prompt: row for row in ledger.rows("1 ORDER BY attempt")}


def states(store: Store) -> Counter[str]:
    return Counter(row.state for row in rows(store).values())


def num_kept(store: Store) -> int:
    return len(clip_paths(store))


def begun(
    teacher: RemoteTeacher, store: Store, requests: Sequence[ClipRequest], **environ: str
) -> int:
    """A harvest in a forked child; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.environ.update(environ)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler)
            done = ordered(teacher, store, requests)
            code = 0 if done.stop is None else 3
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    """The exit code of a child, or minus its signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def harvested(teacher: RemoteTeacher, root: Path, *texts: str) -> tuple[HarvestResult, Store]:
    """A whole harvest in this process."""
    store = Store(root)
    return ordered(teacher, store, wants_of(teacher, *texts)), store


def ordered(teacher: RemoteTeacher, store: Store, requests: Sequence[ClipRequest]) -> HarvestResult:
    """As every caller does it: what has a clip is not asked for."""
    return harvest(teacher, store, requests, find_clips(store, teacher_spec(teacher), requests))
