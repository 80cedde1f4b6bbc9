"""The ledger: its sums, its cap and its owners, between real processes and on a full disk."""

import asyncio
import multiprocessing
import os
import sqlite3
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from afd.clips.requests import ClipRequest, TeacherSpec, clip_request, order_key
from afd.harvest.ledger import Ledger, LostOrderError, TaskTakenError
from afd.harvest.ledger_thread import LedgerThread
from afd.harvest.schema import LedgerError, ledger_path
from afd.harvest.states import STATES, TransitionError, next_state
from afd.prompts import Prompt, prompt_id

ASKED = TeacherSpec("ark", "film-1", {"resolution": "480p"}, 5.0, 24.0, (640, 640), seeded=True)


def some(count: int) -> list[ClipRequest]:
    texts = [f"ball number {n}" for n in range(count)]
    return [clip_request(ASKED.digest, Prompt(prompt_id(t), t, "train"), 0) for t in texts]


def keys(requests: list[ClipRequest]) -> list[str]:
    return [order_key(one.request_id, 0, seeded=True) for one in requests]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path)
    ledger.begin_work()
    return ledger


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cap=st.integers(0, 60),
    moves=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(["claim", *STATES]),
            st.integers(0, 20),
        ),
        max_size=40,
    ),
)
def test_whatever_happens_claims_stay_below_the_cap_and_sums_are_those_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, cap: int, moves: list[tuple[int, str, int]]
) -> None:
    requests = some(6)
    with Ledger(tmp_path_factory.mktemp("ledger")) as ledger:
        ledger.begin_work()
        ledger.plan(ASKED, ((one, 0) for one in requests))
        for index, move, amount in moves:
            key = keys(requests)[index]
            before = ledger.row(key)
            if move == "claim":
                claim, _ = ledger.claim(key, reserve=amount, cap=cap, in_flight=4)
                if claim == "claimed":
                    money = ledger.money("ark")
                    assert money.spent + money.reserved <= cap
            else:
                try:
                    ledger.move(
                        key,
                        move,  # type: ignore[arg-type]
                        by_hand=before.owner is None,
                        **({"spent": min(amount, before.reserved)} if move == "succeeded" else {}),
                        **({"reserved": 0} if move == "succeeded" else {}),
                    )
                except TransitionError:
                    with pytest.raises(TransitionError):
                        next_state(before.state, move)  # type: ignore[arg-type]
                    assert ledger.row(key) == before
            money = ledger.money("ark")
            rows = ledger.rows("1")
            assert money.spent == sum(row.spent for row in rows)
            assert money.reserved == sum(row.reserved for row in rows)
            assert money.spent + money.reserved <= max(cap, 0)


def claim_all(root: Path, cap: int, claimed: "multiprocessing.Queue[list[str]]") -> None:
    with Ledger(root) as ledger:
        ledger.begin_work()
        mine = [
            key
            for key in keys(some(40))
            if ledger.claim(key, reserve=1, cap=cap, in_flight=1000)[0] == "claimed"
        ]
    claimed.put(mine)


def test_processes_share_one_cap_and_no_order(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.plan(ASKED, ((one, 0) for one in some(40)))
    context = multiprocessing.get_context("fork")
    claimed: multiprocessing.Queue[list[str]] = context.Queue()
    children = [context.Process(target=claim_all, args=(tmp_path, 25, claimed)) for _ in range(3)]
    for child in children:
        child.start()
    found = [key for _ in children for key in claimed.get(timeout=60)]
    for child in children:
        child.join()
    assert len(found) == len(set(found)) == 25
    with Ledger(tmp_path) as ledger:
        assert ledger.money("ark").reserved == 25
        ledger.begin_work()
        ledger.take_over(ASKED)  # all three are gone, and nobody knows what they sent
        assert len(ledger.of_provider(ASKED, ("ambiguous",))) == 25


def test_only_the_owner_moves_an_order(tmp_path: Path, ledger: Ledger) -> None:
    (one,) = some(1)
    ledger.plan(ASKED, [(one, 0)])
    (key,) = keys([one])
    ledger.claim(key, 1, 10, 1)
    with Ledger(tmp_path) as other:
        other.begin_work()
        assert other.take_over(ASKED) == []  # its owner lives: in this very process
        for by_hand in (False, True):
            with pytest.raises(LostOrderError):
                other.move(key, "submitted", by_hand=by_hand, task_id="t")
        ledger.end_work()
        assert other.row(key).state == "ambiguous"


def begin_and_wait(root: Path, claimed: "multiprocessing.Queue[int]", done: Event) -> None:
    with Ledger(root) as ledger:
        ledger.begin_work()
        ledger.claim(keys(some(1))[0], 1, 10, 1)
        claimed.put(os.getpid())
        done.wait(60)


def test_a_process_that_lives_keeps_its_orders_when_the_clock_was_set(tmp_path: Path) -> None:
    """Times of processes are told in seconds since 1970, and all of them move with the clock."""
    with Ledger(tmp_path) as ledger:
        ledger.plan(ASKED, [(some(1)[0], 0)])
        ledger.begin_work()
        context = multiprocessing.get_context("fork")
        claimed: multiprocessing.Queue[int] = context.Queue()
        done = context.Event()
        child = context.Process(target=begin_and_wait, args=(tmp_path, claimed, done))
        child.start()
        try:
            pid = claimed.get(timeout=60)
            (key,) = keys(some(1))
            with sqlite3.connect(ledger.path) as database:
                database.execute("UPDATE owners SET created = created - 5 WHERE pid = ?", (pid,))
            assert ledger.take_over(ASKED) == []
            assert ledger.row(key).state == "submitting"
            with sqlite3.connect(ledger.path) as database:  # but a number that was given out again
                database.execute("UPDATE owners SET beat_at = 0 WHERE pid = ?", (pid,))
            ledger.take_over(ASKED)
            assert ledger.row(key).state == "ambiguous"
        finally:
            done.set()
            child.join()


def test_an_order_of_an_owner_that_no_table_knows_is_taken_over(
    tmp_path: Path, ledger: Ledger
) -> None:
    requests = some(2)
    ledger.plan(ASKED, ((one, 0) for one in requests))
    first, second = keys(requests)
    ledger.claim(first, 1, 10, 5)
    ledger.move(first, "submitted", task_id="job-1")
    with Ledger(tmp_path) as other:
        other.begin_work()
        with sqlite3.connect(ledger.path) as database:
            database.execute("DELETE FROM owners WHERE id != ?", (other.owner.id,))  # type: ignore[union-attr]
        ledger.claim(second, 1, 10, 5)  # it works, so it is registered again
        assert other.take_over(ASKED) == []
        with sqlite3.connect(ledger.path) as database:
            database.execute("DELETE FROM owners WHERE id != ?", (other.owner.id,))  # type: ignore[union-attr]
        ledger.beat()
        assert other.take_over(ASKED) == []
        with sqlite3.connect(ledger.path) as database:
            database.execute("DELETE FROM owners WHERE id != ?", (other.owner.id,))  # type: ignore[union-attr]
        assert [row.key for row in other.take_over(ASKED)] == [first]
        assert other.row(second).state == "ambiguous"


def test_two_orders_never_share_a_task(ledger: Ledger) -> None:
    requests = some(2)
    ledger.plan(ASKED, ((one, 0) for one in requests))
    first, second = keys(requests)
    for key in (first, second):
        ledger.claim(key, 1, 10, 5)
    ledger.move(first, "submitted", task_id="job-1")
    with pytest.raises(TaskTakenError, match="job-1"):
        ledger.move(second, "submitted", task_id="job-1")
    assert ledger.row(second).state == "submitting"


def test_orders_cannot_be_deleted(ledger: Ledger) -> None:
    ledger.plan(ASKED, [(some(1)[0], 0)])
    with sqlite3.connect(ledger.path) as database, pytest.raises(sqlite3.IntegrityError):
        database.execute("DELETE FROM orders")


def test_a_full_disk_undoes_the_whole_commit_and_is_named(tmp_path: Path) -> None:
    """sqlite's own limit on pages is a full disk to everything above it."""

    async def work() -> list[object]:
        async with LedgerThread(tmp_path) as in_ledger:
            await in_ledger(lambda ledger: ledger.plan(ASKED, [(some(1)[0], 0)]))
            await in_ledger(lambda ledger: ledger.query("PRAGMA max_page_count = 20"))
            asked = [
                in_ledger(lambda ledger: ledger.begin_work()),
                in_ledger(lambda ledger: ledger.plan(ASKED, ((one, 0) for one in some(2000)))),
            ]
            return list(await asyncio.gather(*asked, return_exceptions=True))

    answers = asyncio.run(work())
    assert any(isinstance(answer, LedgerError) for answer in answers)
    assert "the disk is full" in str(answers[-1])
    with Ledger(tmp_path) as ledger:
        assert len(ledger.rows("1")) == 1  # whole as it was


def test_one_bad_piece_of_work_undoes_itself_alone(tmp_path: Path) -> None:
    requests = some(3)

    async def work() -> list[object]:
        async with LedgerThread(tmp_path) as in_ledger:
            await in_ledger(Ledger.begin_work)
            asked = [
                in_ledger(lambda ledger: ledger.plan(ASKED, [(requests[0], 0)])),
                in_ledger(lambda ledger: ledger.move(keys(requests)[0], "verified")),
                in_ledger(lambda ledger: ledger.plan(ASKED, [(requests[1], 0)])),
            ]
            return list(await asyncio.gather(*asked, return_exceptions=True))

    first, second, third = asyncio.run(work())
    assert (first, third) == (1, 1) and isinstance(second, (LostOrderError, TransitionError))


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"not a database at all" * 100, "not a ledger"), (b"", "")],
)
def test_a_file_that_is_no_ledger_is_told_and_left_alone(
    tmp_path: Path, content: bytes, told: str
) -> None:
    file = ledger_path(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    if not told:  # an empty file is an empty ledger: a kill before the first commit leaves one
        Ledger(tmp_path).close()
        return
    with pytest.raises(LedgerError, match=told):
        Ledger(tmp_path)
    assert file.read_bytes() == content


def test_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    with sqlite3.connect(ledger_path(tmp_path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="schema 99"):
        Ledger(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere: read-only was not tested")
def test_a_ledger_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    ledger_path(tmp_path).chmod(0o400)
    with pytest.raises(LedgerError, match="writable"), Ledger(tmp_path) as ledger:
        ledger.begin_work()
