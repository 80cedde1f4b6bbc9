"""Submissions of a unit are bounded in any window, whatever asks for more."""

from types import SimpleNamespace

import pytest

from flows.jobs import pace
from flows.jobs.pace import MAX_SUBMISSIONS, WINDOW_S, Pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a test sets."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_who_asks_every_second_gets_six_submissions_in_ten_minutes(clock: SimpleNamespace) -> None:
    own, taken = Pace(), list[float]()
    for second in range(3 * int(WINDOW_S)):
        clock.now = float(second)
        if own.left_s((0,)) == 0:
            own.note((0,))
            taken.append(clock.now)
    for first in taken:
        assert sum(first <= at < first + WINDOW_S for at in taken) <= MAX_SUBMISSIONS
    assert len(taken) == 3 * MAX_SUBMISSIONS


def test_a_part_waits_for_its_own_submissions_alone(clock: SimpleNamespace) -> None:
    own = Pace()
    for _ in range(MAX_SUBMISSIONS):
        own.note((0,))
    clock.now = 100.0
    assert own.left_s((1,)) == 0
    assert own.left_s((0, 1)) == WINDOW_S - 100
