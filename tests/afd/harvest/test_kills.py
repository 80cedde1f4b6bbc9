"""Killed anywhere, typed again: the vendor's own count of POSTs says that nothing is paid twice.

The children are killed for real at their failpoints (SIGKILL); only the vendor, which lives in this
process, sees what they did.
"""

import os
import signal
import time
from pathlib import Path
from typing import get_args

import pytest

from afd.failpoints import FailpointName
from afd.harvest.run import harvest
from afd.store import Store
from tests.afd.harvest.ordering import (
    KEY,
    KEY_VARIABLE,
    PRICE_USD,
    begun,
    ended,
    num_kept,
    rows,
    states,
    teacher_at,
    until,
    wants_of,
)
from tests.harvest_server.script import Script
from tests.harvest_server.server import Server

FAILPOINTS = [
    name
    for name in get_args(FailpointName)
    if name.startswith("harvest.") and name != "harvest.clip_paid"  # the simulator's
]
PROMPTS = ("a red ball", "a green ball", "a blue ball", "a grey ball", "a white ball")
QUICK = Script(job_s=0.05, film="constant", key=KEY)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.mark.parametrize(
    ("failpoint", "count"), [(name, 1 + number % 3) for number, name in enumerate(FAILPOINTS)]
)
def test_killed_at_a_failpoint_and_typed_again(tmp_path: Path, failpoint: str, count: int) -> None:
    store = Store(tmp_path / "store")
    with Server("openai_videos", QUICK) as server:  # it lists its tasks
        teacher = teacher_at(server, in_flight=2)
        wants = wants_of(teacher, *PROMPTS)
        assert ended(begun(teacher, store, wants, AFD_FAILPOINT=f"{failpoint}:{count}")) == -9
        done = harvest(teacher, store, wants)
        assert done.stop is None
        assert set(server.posts().values()) == {1}
        num_unsent = len(PROMPTS) - len(server.jobs())
    told = states(store)
    # Between the claim and the answer nobody can know, unless the vendor lists the task. Two are in
    # flight: wherever the kill comes, the other one may stand between its claim and its POST.
    assert (1 if failpoint == "harvest.before_post" else 0) <= num_unsent <= 2
    assert told == {"verified": len(PROMPTS) - num_unsent} | (
        {"ambiguous": num_unsent} if num_unsent else {}
    )
    assert num_kept(store) == len(PROMPTS) - num_unsent
    spent = sum(row.spent for row in rows(store).values())
    assert spent == round(1e6 * PRICE_USD) * (len(PROMPTS) - num_unsent)


def test_an_answer_that_was_lost_where_nobody_lists_is_left_to_a_person(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with Server("veo", QUICK) as server:
        teacher = teacher_at(server, seeded=False)
        wants = wants_of(teacher, *PROMPTS)
        assert ended(begun(teacher, store, wants, AFD_FAILPOINT="harvest.after_post:2")) == -9
        for _ in range(2):
            harvest(teacher, store, wants)
            assert set(server.posts().values()) == {1}
        lost = [row for row in rows(store).values() if row.state == "ambiguous"]
        assert lost and all(row.reserved and "ended between" in str(row.reason) for row in lost)
        assert states(store)["verified"] == len(PROMPTS) - len(lost)


def test_killed_again_and_again_at_any_moment(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with Server("openai_videos", Script(job_s=0.3, latency_s=0.02, film="constant")) as server:
        teacher = teacher_at(server, in_flight=3)
        wants = wants_of(teacher, *(f"ball number {n}" for n in range(12)))
        for moment in (0.1, 0.2, 0.25, 0.3, 0.35, 0.45, 0.6, 0.9):
            pid = begun(teacher, store, wants)
            time.sleep(moment)
            os.kill(pid, signal.SIGKILL)
            ended(pid)
        harvest(teacher, store, wants)
        assert set(server.posts().values()) == {1}
        told = states(store)
        assert told["verified"] + told["ambiguous"] == len(wants)
        assert told["ambiguous"] == len(wants) - len(server.jobs())


def test_ctrl_c_leaves_nothing_in_doubt(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with Server("veo", Script(job_s=0.5, latency_s=0.1, film="constant")) as server:
        teacher = teacher_at(server, seeded=False)
        wants = wants_of(teacher, *(f"ball number {n}" for n in range(12)))
        pid = begun(teacher, store, wants)
        until(lambda: len(server.book.posts) >= 6)
        os.kill(pid, signal.SIGINT)
        assert ended(pid) == 3
        assert not states(store)["ambiguous"] and not states(store)["submitting"]
        harvest(teacher, store, wants)
        assert states(store) == {"verified": len(wants)}
        assert set(server.posts().values()) == {1}


def test_two_processes_on_one_store_pay_once_and_both_come_to_an_end(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    limited = Script(job_s=0.2, film="constant", max_in_flight=4)  # a fifth would be a second POST
    with Server("ark", limited) as server:
        teacher = teacher_at(server, in_flight=4)
        wants = wants_of(teacher, *(f"ball number {n}" for n in range(16)))
        pids = [begun(teacher, store, wants), begun(teacher, store, list(reversed(wants)))]
        assert [ended(pid) for pid in pids] == [0, 0]
        assert set(server.posts().values()) == {1} and len(server.posts()) == 16
    assert states(store) == {"verified": 16}


def test_one_that_lives_finishes_what_the_dead_one_began(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with Server("ark", Script(job_s=1.0, film="constant")) as server:
        teacher = teacher_at(server)
        wants = wants_of(teacher, *(f"ball number {n}" for n in range(6)))
        first = begun(teacher, store, wants)
        until(lambda: states(store)["submitted"] >= 4 if (tmp_path / "store").exists() else False)
        second = begun(teacher, store, wants[:2])
        os.kill(first, signal.SIGKILL)
        ended(first)
        assert ended(second) == 0
        assert set(server.posts().values()) == {1}
        assert states(store)["verified"] >= 4
