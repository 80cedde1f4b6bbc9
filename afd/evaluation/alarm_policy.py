"""Policy of the alarms: their actions on the rounds that follow.

A pure function of the rounds' gauges and of params.alarms, folded over the rounds. So a campaign
that is killed and resumed, a round that is computed alone and a report that is written years later
come to the same state. Actions of one round add up: it may roll back, change the discriminator's
steps and pause.

    warn             the alarm is reported, nothing else
    pause            when an alarm begins (not while it lasts) the campaign waits for a person
    more_fit_steps   the next rounds' fit.num_steps times alarms.fit_steps_factor, bounded
    fewer_fit_steps  the same, divided; both at once leave it as it is
    roll_back        the next round starts with the best round's student and discriminator, and
                     replays only the clips of its lineage; beyond alarms.max_roll_backs: pause
    stop             no further round; the final evaluation is of the last student
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from afd.config import AlarmsParams, FitParams
from afd.evaluation.alarms import Alarm, Gauges, best_round, raised_alarms, unwatched

STAGES: Mapping[str, str] = {"discriminator": "fit", "student": "update", "evaluation": "evaluate"}
"""Role in a round -> stage whose summary holds gauges."""

Ends = Literal["goes_on", "pauses", "stops"]


@dataclass(frozen=True)
class AlarmState:
    """Decisions of the alarms after the last round."""

    lineage: tuple[int, ...] = ()  # rounds that led to the student, the oldest first
    fit_steps_power: int = 0  # of alarms.fit_steps_factor
    num_roll_backs: int = 0
    alarms: tuple[Alarm, ...] = ()  # raised by the last round
    ends: Ends = "goes_on"
    changes: tuple[str, ...] = ()  # actions that were taken, in words
    unwatched: tuple[str, ...] = ()

    def fit_params(self, own: FitParams, limits: AlarmsParams) -> FitParams:
        """Return the params of the next round's fit."""
        if not self.fit_steps_power or not own.num_steps:
            return own
        steps = max(1, round(own.num_steps * limits.fit_steps_factor**self.fit_steps_power))
        return own.model_copy(update={"num_steps": steps})

    def record(self, index: int) -> dict[str, Any]:
        """Return the round's record, as JSON."""
        return {
            "round": index,
            "alarms": [_as_json(alarm) for alarm in self.alarms],
            "ends": self.ends,
            "starts_from": self.lineage[-1],
            "fit_steps_power": self.fit_steps_power,
            "changes": list(self.changes),
            "unwatched": list(self.unwatched),
        }


def round_gauges(summaries: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
    """Return a round's gauges from the summaries of its artifacts, by role."""
    return {
        f"{STAGES[role]}/{name}": float(value)
        for role, summary in summaries.items()
        if role in STAGES
        for name, value in summary.items()
        if isinstance(value, int | float)
    }


def next_state(before: AlarmState, rounds: Sequence[Gauges], limits: AlarmsParams) -> AlarmState:
    """Return the state after the last of `rounds`, all that were played, from the one before."""
    index = len(rounds) - 1
    lineage = (*before.lineage, index)
    led_here = [rounds[one] for one in lineage]
    alarms = tuple(raised_alarms(led_here, limits))
    actions = {alarm.action for alarm in alarms}
    begun = {alarm.name for alarm in alarms} - {alarm.name for alarm in before.alarms}
    state = replace(
        before, lineage=lineage, alarms=alarms, ends="goes_on", changes=(),
        unwatched=tuple(unwatched(rounds[-1], limits)),
    )  # fmt: skip
    state = _with_fit_steps(state, actions & {"more_fit_steps", "fewer_fit_steps"}, limits)
    if "roll_back" in actions:
        state = _rolled_back(state, led_here, limits)
    if any(alarm.action == "pause" and alarm.name in begun for alarm in alarms):
        state = replace(state, ends="pauses")
    if "stop" in actions:
        state = replace(state, ends="stops", changes=(*state.changes, "stopped: no more rounds"))
    return state


def alarm_states(rounds: Sequence[Gauges], limits: AlarmsParams) -> list[AlarmState]:
    """Return the state after each round."""
    states: list[AlarmState] = []
    for index in range(len(rounds)):
        before = states[-1] if states else AlarmState()
        states.append(next_state(before, rounds[: index + 1], limits))
    return states


def _with_fit_steps(state: AlarmState, actions: set[str], limits: AlarmsParams) -> AlarmState:
    if len(actions) != 1:  # none, or one each way
        change = ("fit steps stay: alarms ask for more and for fewer",) if actions else ()
        return replace(state, changes=(*state.changes, *change))
    way = 1 if "more_fit_steps" in actions else -1
    power = state.fit_steps_power + way
    if abs(power) > limits.max_fit_steps_changes:
        change = "fit steps stay: alarms.max_fit_steps_changes is reached"
        return replace(state, changes=(*state.changes, change))
    change = f"fit steps from now on: fit.num_steps x {limits.fit_steps_factor**power:.3g}"
    return replace(state, fit_steps_power=power, changes=(*state.changes, change))


def _rolled_back(state: AlarmState, led_here: Sequence[Gauges], limits: AlarmsParams) -> AlarmState:
    place = best_round(led_here, limits)
    if place is None or place == len(led_here) - 1:
        change = "nothing to roll back to: no earlier round is better"
        return replace(state, changes=(*state.changes, change))
    if state.num_roll_backs == limits.max_roll_backs:
        change = f"not rolled back: alarms.max_roll_backs ({limits.max_roll_backs}) is reached"
        return replace(state, ends="pauses", changes=(*state.changes, change))
    lineage = state.lineage[: place + 1]
    change = (
        f"rolled back: what follows starts from round {lineage[-1]}'s student and discriminator"
    )
    return replace(
        state, lineage=lineage, num_roll_backs=state.num_roll_backs + 1,
        changes=(*state.changes, change),
    )  # fmt: skip


def _as_json(alarm: Alarm) -> dict[str, Any]:
    fields = dict(vars(alarm))
    return fields | {"says": fields.pop("explanation")}  # the key of records that campaigns have
