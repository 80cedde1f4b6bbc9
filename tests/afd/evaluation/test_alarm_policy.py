"""What alarms make of a campaign, as a pure function of what its rounds showed."""

from typing import Any

import pytest

from afd.config import AlarmsParams, FitParams
from afd.evaluation.alarm_policy import AlarmState, alarm_states, next_state
from afd.evaluation.alarms import Gauges

GOOD = {"fit/margin": 3.0, "fit/pair_accuracy": 1.0, "evaluate/trajectory_error_px": 1.0}
BETTER = GOOD | {"evaluate/trajectory_error_px": 0.8}
HACKED = GOOD | {"fit/margin": 1.0, "evaluate/trajectory_error_px": 2.0}
COLLAPSED = GOOD | {"fit/pair_accuracy": 0.5}
SATURATED = GOOD | {"update/zero_spread_share": 0.9}


def limits(**actions: Any) -> AlarmsParams:
    bounds = {name: actions.pop(name) for name in list(actions) if name.startswith("max_")}
    chosen = {name: {"action": action} for name, action in actions.items()}
    return AlarmsParams.model_validate(chosen | bounds)


def fit(num_steps: int) -> FitParams:
    return FitParams.model_validate(
        {
            "loss": "bradley_terry", "warmup_steps": 15, "num_steps": num_steps, "batch_size": 8,
            "learning_rate": 1e-3, "betas": [0.5, 0.99], "weight_decay": 0.0, "r1": 0.3,
            "mismatch": 0.0, "replay_rounds": 4, "replay_share": 0.5,
        }
    )  # fmt: skip


@pytest.mark.parametrize("fault", [HACKED, COLLAPSED, SATURATED])
def test_by_default_nothing_is_changed_whatever_happens(fault: Gauges) -> None:
    state = alarm_states([GOOD, BETTER, fault, fault], AlarmsParams())[-1]
    assert state.alarms
    assert (state.lineage, state.ends, state.changes) == ((0, 1, 2, 3), "goes_on", ())
    assert state.fit_params(fit(8), AlarmsParams()) == fit(8)


def test_a_roll_back_cuts_the_line_at_the_best_round_and_the_next_round_goes_on_from_it() -> None:
    own = limits(reward_hacking="roll_back")
    states = alarm_states([GOOD, BETTER, HACKED, BETTER, HACKED], own)
    assert [state.lineage for state in states] == [(0,), (0, 1), (0, 1), (0, 1, 3), (0, 1)]
    assert [state.num_roll_backs for state in states] == [0, 0, 1, 1, 2]
    assert "round 1's student" in states[2].changes[0]


def test_rolled_back_too_often_it_pauses_instead() -> None:
    states = alarm_states(
        [BETTER, HACKED, HACKED], limits(reward_hacking="roll_back", max_roll_backs=1)
    )
    assert [state.ends for state in states] == ["goes_on", "goes_on", "pauses"]
    assert states[-1].lineage == (0, 2)


def test_the_best_round_is_not_rolled_back_from() -> None:
    (state,) = alarm_states([COLLAPSED], limits(collapse="roll_back"))
    assert state.lineage == (0,) and "nothing to roll back to" in state.changes[0]


@pytest.mark.parametrize(
    ("action", "steps"), [("more_fit_steps", [16, 32, 32, 32]), ("fewer_fit_steps", [4, 2, 2, 2])]
)
def test_fit_steps_change_in_the_following_rounds_and_are_bounded(
    action: str, steps: list[int]
) -> None:
    own = limits(collapse=action)
    states = alarm_states([COLLAPSED, COLLAPSED, COLLAPSED, GOOD], own)
    assert [state.fit_params(fit(8), own).num_steps for state in states] == steps
    assert states[0].fit_params(fit(1), own).num_steps >= 1
    assert states[0].fit_params(fit(0), own).num_steps == 0  # a frozen one stays frozen


def test_alarms_that_ask_for_more_and_for_fewer_steps_change_none() -> None:
    own = limits(collapse="more_fit_steps", saturation="fewer_fit_steps")
    (state,) = alarm_states([COLLAPSED | SATURATED | {"fit/pair_accuracy": 0.5}], own)
    assert state.fit_params(fit(8), own) == fit(8) and "more and for fewer" in state.changes[0]


def test_a_pause_waits_where_an_alarm_begins_not_while_it_lasts() -> None:
    own = limits(collapse="pause")
    states = alarm_states([COLLAPSED, COLLAPSED, GOOD, COLLAPSED], own)
    assert [state.ends for state in states] == ["pauses", "goes_on", "goes_on", "pauses"]


def test_a_stop_wins_over_a_pause() -> None:
    (state,) = alarm_states(
        [COLLAPSED | SATURATED | {"fit/pair_accuracy": 0.5}],
        limits(collapse="pause", saturation="stop"),
    )
    assert state.ends == "stops"


def test_told_round_by_round_it_is_the_same_course() -> None:
    own = limits(reward_hacking="roll_back", collapse="more_fit_steps", saturation="pause")
    rounds = [GOOD, HACKED, COLLAPSED, SATURATED, BETTER, HACKED]
    state = AlarmState()
    for index in range(len(rounds)):
        state = next_state(state, rounds[: index + 1], own)
        assert state == alarm_states(rounds[: index + 1], own)[-1]
