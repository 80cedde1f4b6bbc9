"""What a person watches of a harvest: shares, rates and reasons are those of what they name."""

import time
from collections import Counter
from dataclasses import replace

import pytest

from afd.harvest.order import OrderRow
from afd.harvest.progress import HarvestProgress
from afd.harvest.states import OrderState
from flows.commands.orders import Lines


def row(state: OrderState, submitted_at: float | None) -> OrderRow:
    return OrderRow(
        key="k", request_id="s", attempt=0, spec_id=1, provider="ark", model="m", prompt="p",
        prompt_id="p", category=None, sample=0, state=state, vendor_state=None, reason=None,
        task_id=None, poll_url=None, owner=None, reserved=0, spent=0, returned_seed=None,
        facts=None, planned_at=0.0, submitted_at=submitted_at, finished_at=None,
    )  # fmt: skip


def test_refusals_of_earlier_runs_are_a_share_of_all_that_ended() -> None:
    live = HarvestProgress(12, Counter({"refused_input": 8, "planned": 1}), num_in_store=3)
    live.moved("planned", row("verified", time.time()))
    assert (live.num_refused, live.num_ended) == (8, 9)  # and not 8 of 1: 800 %
    assert live.num_done == 12


def test_what_was_only_fetched_says_nothing_about_the_rate() -> None:
    live = HarvestProgress(10, Counter({"submitted": 9}))
    for _ in range(8):  # ordered an hour ago, delivered in the first second
        live.moved("submitted", row("verified", time.time() - 3600))
    assert live.per_hour is None
    own = replace(live, started=time.monotonic() - 36, started_at=time.time() - 36)
    own.moved("submitted", row("verified", time.time() - 10))
    assert own.per_hour == pytest.approx(100, rel=0.05)


def test_a_log_says_why_it_waits_and_nothing_twice() -> None:
    said: list[str] = []
    lines = Lines(said.append, period_s=0.0)
    live = HarvestProgress(2, Counter({"planned": 2}), cap=10_000)
    for _ in range(50):
        lines.print_news(live)
    live.news = "not sent: ConnectError: nothing was created, next try in 4 s"
    for _ in range(50):
        lines.print_news(live)
    live.moved("planned", row("submitted", time.time()))
    lines.print_news(live)
    assert len(said) == 3
    assert "next try in 4 s" in said[1] and "next try" not in said[2]
    patient = Lines(said.append, period_s=1e9)
    patient.print_news(live)
    live.news = "polling: no answer: ReadTimeout; again in 8 s"
    patient.print_news(live)  # a new reason does not wait for its turn
    assert len(said) == 5 and "ReadTimeout" in said[4]
