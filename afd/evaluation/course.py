"""The course of a campaign: what its alarms change for the rounds that follow.

A pure function of the rounds' gauges and of params.alarms, folded over the rounds: a campaign that
is killed and typed again, a round that is asked for alone and a report that is written years later
come to the same course. Actions of one round add up: it may roll back, change the discriminator's
steps and pause.

    warn             nothing but the telling
    pause            when an alarm begins (not while it lasts) the campaign waits for a person
    more_fit_steps   the next rounds' fit.num_steps times alarms.fit_steps_factor, bounded
    fewer_fit_steps  the same, divided; both at once leave it as it is
    roll_back        the next round starts with the best round's student and discriminator, and
                     replays only what led to it; once too often is a pause
    stop             no further round; the final evaluation is of the student as it stands
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from afd.config import AlarmsParams, FitParams
from afd.evaluation.alarms import Alarm, Gauges, best_round, judge, unwatched

STAGES: Mapping[str, str] = {"discriminator": "fit", "student": "update", "evaluation": "evaluate"}
"""Role in a round -> stage: whose summaries are the round's gauges."""

Ends = Literal["goes_on", "pauses", "stops"]


@dataclass(frozen=True)
class Course:
    """Where a campaign stands after its last round."""

    line: tuple[int, ...] = ()  # the rounds that led to the student, the oldest first
    fit_steps_power: int = 0  # of alarms.fit_steps_factor
    num_roll_backs: int = 0
    alarms: tuple[Alarm, ...] = ()  # raised by the last round
    ends: Ends = "goes_on"
    changes: tuple[str, ...] = ()  # what the alarms did, for a person
    unwatched: tuple[str, ...] = ()

    def fit(self, own: FitParams, limits: AlarmsParams) -> FitParams:
        """The next round's fit."""
        if not self.fit_steps_power or not own.num_steps:
            return own
        steps = max(1, round(own.num_steps * limits.fit_steps_factor**self.fit_steps_power))
        return own.model_copy(update={"num_steps": steps})

    def record(self, index: int) -> dict[str, Any]:
        """What stands in the round's record, as JSON."""
        return {
            "round": index,
            "alarms": [vars(alarm) for alarm in self.alarms],
            "ends": self.ends,
            "starts_from": self.line[-1],
            "fit_steps_power": self.fit_steps_power,
            "changes": list(self.changes),
            "unwatched": list(self.unwatched),
        }


def gauges(summaries: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
    """A round's gauges from its artifacts' summaries, by role."""
    return {
        f"{STAGES[role]}/{name}": float(value)
        for role, summary in summaries.items()
        if role in STAGES
        for name, value in summary.items()
        if isinstance(value, int | float)
    }


def after(before: Course, rounds: Sequence[Gauges], limits: AlarmsParams) -> Course:
    """The course after the last of `rounds`, all that were played, from the one before it."""
    index = len(rounds) - 1
    line = (*before.line, index)
    seen = [rounds[one] for one in line]
    alarms = tuple(judge(seen, limits))
    actions = {alarm.action for alarm in alarms}
    begun = {alarm.name for alarm in alarms} - {alarm.name for alarm in before.alarms}
    course = replace(
        before, line=line, alarms=alarms, ends="goes_on", changes=(),
        unwatched=tuple(unwatched(rounds[-1], limits)),
    )  # fmt: skip
    course = _with_fit_steps(course, actions & {"more_fit_steps", "fewer_fit_steps"}, limits)
    if "roll_back" in actions:
        course = _rolled_back(course, seen, limits)
    if any(alarm.action == "pause" and alarm.name in begun for alarm in alarms):
        course = replace(course, ends="pauses")
    if "stop" in actions:
        course = replace(course, ends="stops", changes=(*course.changes, "stopped: no more rounds"))
    return course


def course_of(rounds: Sequence[Gauges], limits: AlarmsParams) -> list[Course]:
    """The course after each round."""
    courses: list[Course] = []
    for index in range(len(rounds)):
        before = courses[-1] if courses else Course()
        courses.append(after(before, rounds[: index + 1], limits))
    return courses


def _with_fit_steps(course: Course, actions: set[str], limits: AlarmsParams) -> Course:
    if len(actions) != 1:  # none, or one each way
        said = ("fit steps stay: alarms ask for more and for fewer",) if actions else ()
        return replace(course, changes=(*course.changes, *said))
    way = 1 if "more_fit_steps" in actions else -1
    power = course.fit_steps_power + way
    if abs(power) > limits.max_fit_steps_changes:
        said = "fit steps stay: alarms.max_fit_steps_changes is reached"
        return replace(course, changes=(*course.changes, said))
    said = f"fit steps from now on: fit.num_steps x {limits.fit_steps_factor**power:.3g}"
    return replace(course, fit_steps_power=power, changes=(*course.changes, said))


def _rolled_back(course: Course, seen: Sequence[Gauges], limits: AlarmsParams) -> Course:
    place = best_round(seen, limits)
    if place is None or place == len(seen) - 1:
        said = "nothing to roll back to: no earlier round is better"
        return replace(course, changes=(*course.changes, said))
    if course.num_roll_backs == limits.max_roll_backs:
        said = f"not rolled back: alarms.max_roll_backs ({limits.max_roll_backs}) is reached"
        return replace(course, ends="pauses", changes=(*course.changes, said))
    line = course.line[: place + 1]
    said = f"rolled back: what follows starts from round {line[-1]}'s student and discriminator"
    return replace(
        course, line=line, num_roll_backs=course.num_roll_backs + 1,
        changes=(*course.changes, said),
    )  # fmt: skip
