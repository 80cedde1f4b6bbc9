"""One harvester a store and provider: a second waits, says for whom, and pays for nothing twice."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from afd.clips.lookup import find_clips
from afd.clips.requests import teacher_spec
from afd.harvest.progress import HarvestProgress
from afd.harvest.run import harvest
from afd.store import Store
from tests.afd.harvest.ordering import (
    KEY,
    KEY_VARIABLE,
    begun,
    ended,
    ordered,
    states,
    teacher_at,
    until,
    wants_of,
)
from tests.harvest_server.script import Script
from tests.harvest_server.server import Server


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def test_a_second_harvest_waits_for_the_first_and_names_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with Server("ark", Script(job_s=1.5, film="constant")) as server:
        teacher = teacher_at(server)
        both = wants_of(teacher, "a red ball", "a blue ball")
        first = begun(teacher, store, both)
        until(lambda: len(server.book.posts) == 2)
        news: list[str] = []
        posts_while_waiting: set[int] = set()

        def on_change(live: HarvestProgress) -> None:
            if "waits" in live.news:
                news.append(live.news)
                posts_while_waiting.add(len(server.book.posts))

        mine = [*both, *wants_of(teacher, "a grey ball")]
        missing = find_clips(store, teacher_spec(teacher), mine)
        done = harvest(teacher, store, mine, missing, on_change)
        assert ended(first) == 0
        assert done.stop is None
        assert done.live.missing == 0  # what the first made meanwhile is found
        assert f"process {first} on " in news[0]
        assert posts_while_waiting == {2}
        assert set(server.posts().values()) == {1}
    assert states(store) == {"verified": 3}


def test_one_that_waits_is_stopped_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with Server("ark", Script(job_s=2.0, film="constant")) as server:
        teacher = teacher_at(server)
        first = begun(teacher, store, wants_of(teacher, "a red ball"))
        until(lambda: len(server.book.posts) == 1)
        second = begun(teacher, store, wants_of(teacher, "a blue ball"))
        time.sleep(1.0)
        os.kill(second, signal.SIGINT)
        assert ended(second) == 3
        assert ended(first) == 0
        assert len(server.book.posts) == 1


def test_a_dead_harvester_holds_nobody_up(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with Server("ark", Script(job_s=1.0, film="constant")) as server:
        teacher = teacher_at(server)
        requests = wants_of(teacher, "a red ball")
        first = begun(teacher, store, requests)
        until(lambda: len(server.book.posts) == 1)
        os.kill(first, signal.SIGKILL)
        ended(first)
        assert ordered(teacher, store, requests).stop is None
        assert len(server.book.posts) == 1


def test_two_providers_never_wait_for_each_other(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with (
        Server("ark", Script(job_s=30.0, film="constant")) as slow,
        Server("kling", Script(job_s=0.05, film="constant", key="a")) as quick,
    ):
        teacher = teacher_at(slow)
        first = begun(teacher, store, wants_of(teacher, "a red ball"))
        until(lambda: len(slow.book.posts) == 1)
        os.environ[KEY_VARIABLE] = "a:b"
        other = teacher_at(quick, seeded=False)
        done = ordered(other, store, wants_of(other, "a blue ball"))
        assert done.stop is None
        os.kill(first, signal.SIGKILL)
        ended(first)
        assert sum(quick.jobs().values()) == 1


def test_two_harvests_of_one_process_take_turns(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with Server("ark", Script(job_s=0.5, film="constant")) as server:
        teacher = teacher_at(server)
        requests = wants_of(teacher, "a red ball")
        threads = [
            threading.Thread(target=ordered, args=(teacher, store, requests)) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(server.book.posts) == 1
    assert states(store) == {"verified": 1}
