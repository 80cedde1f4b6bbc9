"""Which state may follow which, against the picture in the design: paths and ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afd.harvest.states import (
    AT_VENDOR,
    ENDS,
    MAY_FOLLOW,
    STATES,
    OrderState,
    TransitionError,
    may_follow,
    next_state,
)

HAPPY: list[OrderState] = [
    "planned", "submitting", "submitted", "running", "unknown", "running", "succeeded",
    "downloaded", "verified",
]  # fmt: skip
REACHES_A_VENDOR = {"submitting", "ambiguous", *AT_VENDOR, "succeeded", "downloaded"}


def test_a_clip_gets_to_the_store() -> None:
    state = HAPPY[0]
    for request in HAPPY[1:]:
        state = next_state(state, request)
    assert state == "verified"


@given(st.lists(st.sampled_from(STATES), max_size=40))
def test_whatever_is_told_in_whatever_order_an_end_never_goes_back_to_work(
    events: list[OrderState],
) -> None:
    state: OrderState = "submitted"
    ended = False
    for event in [*events, *events]:  # repeated, too
        was = state
        try:
            state = next_state(state, event)
        except TransitionError:
            assert state == was
        ended = ended or state in ENDS
        # Only a task that was given up and then finished after all is looked at again.
        assert not (ended and was != "stalled" and state in {"planned", *AT_VENDOR, "ambiguous"})


def test_nothing_that_may_have_been_sent_becomes_planned_but_by_knowing_it() -> None:
    back = {state for state in STATES if "planned" in MAY_FOLLOW[state]}
    assert back == {"submitting", "ambiguous"}
    assert not any(may_follow(state, "submitting") for state in STATES if state != "planned")


def test_every_state_is_reached_from_planned_and_reaches_an_end() -> None:
    reached, edge = {"planned"}, ["planned"]
    while edge:
        for request in MAY_FOLLOW[edge.pop()]:  # type: ignore[index]
            if request not in reached:
                reached.add(request)
                edge.append(request)
    assert reached == set(STATES)


def test_an_impossible_step_is_told_with_what_would_be_possible() -> None:
    with pytest.raises(TransitionError, match="refused_input cannot become planned"):
        next_state("refused_input", "planned")
