"""Alarms of a round, derived from the gauges of all rounds so far.

The functions are pure: the same rounds raise the same alarms, so a campaign that runs again takes
the same decisions (afd/evaluation/alarm_policy.py). A missing gauge raises no alarm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from afd.config import AlarmsParams
from afd.config.alarms import Action, PanelMetric

Name = Literal["saturation", "collapse", "reward_hacking", "stillness", "no_progress"]
Gauges = Mapping[str, float]
"""Gauges of one round: `<stage>/<quantity>` -> value."""

RANKING = "update/rank_correlation"


@dataclass(frozen=True)
class Alarm:
    """A fault of the last round, and the action that the params have for it."""

    name: Name
    action: Action
    gauge: str
    value: float
    limit: float
    explanation: str  # and the cure

    def __str__(self) -> str:
        measured = f"{self.gauge} is {self.value:.3g}, limit {self.limit:.3g}"
        return f"{self.name}: {measured}: {self.explanation}"


def raised_alarms(rounds: Sequence[Gauges], limits: AlarmsParams) -> list[Alarm]:
    """Return the alarms that the last of `rounds` raises."""
    if not rounds:
        return []
    return [
        *_saturation(rounds[-1], limits),
        *_collapse(rounds[-1], limits),
        *_reward_hacking(rounds, limits),
        *_stillness(rounds[-1], limits),
        *_no_progress(rounds, limits),
    ]


def unwatched(last: Gauges, limits: AlarmsParams) -> list[str]:
    """Return the alarms for which a round has no gauge: they cannot be raised."""
    panel = [_gauge(one) for one in limits.panel]
    needed: Mapping[str, Sequence[str]] = {
        "saturation": ("fit/margin", "update/zero_spread_share"),
        "collapse": ("fit/pair_accuracy",),
        "reward_hacking": (*panel, RANKING),
        "stillness": ("update/static_share", "update/duplicate_share"),
        "no_progress": panel[:1],
    }
    return [name for name, gauges in needed.items() if not last.keys() & set(gauges)]


def best_round(rounds: Sequence[Gauges], limits: AlarmsParams) -> int | None:
    """Return the round that is best by the panel's first metric: a roll-back returns to it."""
    first, sign = _gauge(limits.panel[0]), _sign(limits.panel[0])
    known = [(sign * one[first], index) for index, one in enumerate(rounds) if first in one]
    return min(known)[1] if known else None


def _gauge(one: PanelMetric) -> str:
    return f"evaluate/{one.metric}"


def _sign(one: PanelMetric) -> int:
    """Return 1 where a higher value is worse, else -1."""
    return 1 if one.better == "low" else -1


def _saturation(last: Gauges, limits: AlarmsParams) -> list[Alarm]:
    own = limits.saturation
    alarms: list[Alarm] = []
    margin, spread = last.get("fit/margin"), last.get("fit/group_spread")
    if margin is not None and spread is not None:
        ratio = margin / max(spread, 1e-12)
        if ratio > own.max_margin_to_spread:
            alarms.append(
                Alarm(
                    "saturation", own.action, "fit/margin over fit/group_spread", ratio,
                    own.max_margin_to_spread,
                    "the discriminator tells teacher from student by what all rollouts share: "
                    "fewer fit.num_steps, a lower fit.learning_rate or a higher fit.r1",
                )
            )  # fmt: skip
    share = last.get("update/zero_spread_share")
    if share is not None and share > own.max_zero_spread_share:
        alarms.append(
            Alarm(
                "saturation", own.action, "update/zero_spread_share", share,
                own.max_zero_spread_share,
                "groups whose scores are all alike teach nothing: a larger rollout.group_size, or "
                "look whether the rollouts repeat each other",
            )
        )  # fmt: skip
    return alarms


def _collapse(last: Gauges, limits: AlarmsParams) -> list[Alarm]:
    own = limits.collapse
    accuracy = last.get("fit/pair_accuracy")
    if accuracy is None or accuracy >= own.min_pair_accuracy:
        return []
    return [
        Alarm(
            "collapse", own.action, "fit/pair_accuracy", accuracy, own.min_pair_accuracy,
            "the discriminator cannot tell the sides apart: more fit.num_steps, or another "
            "fit.learning_rate (0 never learns, 25 times too high never settles)",
        )
    ]  # fmt: skip


def _reward_hacking(rounds: Sequence[Gauges], limits: AlarmsParams) -> list[Alarm]:
    """Compare with the best round so far; the margin falls when the students win."""
    own, last, best = limits.reward_hacking, rounds[-1], best_round(rounds, limits)
    cure = "a live discriminator (fit.num_steps), a higher update.prior, or an earlier round"
    alarms: list[Alarm] = []
    ranking = last.get(RANKING)
    if ranking is not None and ranking < own.min_rank_correlation:
        alarms.append(
            Alarm(
                "reward_hacking", own.action, RANKING, ranking, own.min_rank_correlation,
                f"the score prefers the worse rollouts of a group: {cure}",
            )
        )  # fmt: skip
    if best is None or best == len(rounds) - 1:
        return alarms
    then = rounds[best]
    if not {"fit/margin"} <= then.keys() & last.keys() or last["fit/margin"] >= then["fit/margin"]:
        return alarms
    for one in limits.panel:
        gauge, sign = _gauge(one), _sign(one)
        if gauge not in last or gauge not in then:
            continue
        room = one.band * abs(then[gauge]) if one.is_share else one.band
        limit = then[gauge] + sign * room
        if sign * (last[gauge] - limit) > 0:
            alarms.append(
                Alarm(
                    "reward_hacking", own.action, gauge, last[gauge], limit,
                    "the discriminator takes the student for the teacher more often (its margin "
                    f"fell from {then['fit/margin']:.3g} in the best round to "
                    f"{last['fit/margin']:.3g}), but an independent measure has left its band: "
                    f"{cure}",
                )
            )  # fmt: skip
    return alarms


def _stillness(last: Gauges, limits: AlarmsParams) -> list[Alarm]:
    own = limits.stillness
    bounds = (
        (
            "update/static_share", own.max_static_share,
            "rollouts in which nothing moves: a lower update.learning_rate, a higher update.prior",
        ),
        (
            "update/duplicate_share", own.max_duplicate_share,
            "rollouts that repeat each other: a higher update.prior, fewer rounds",
        ),
    )  # fmt: skip
    return [
        Alarm("stillness", own.action, gauge, last[gauge], limit, explanation)
        for gauge, limit, explanation in bounds
        if gauge in last and last[gauge] > limit
    ]


def _no_progress(rounds: Sequence[Gauges], limits: AlarmsParams) -> list[Alarm]:
    own, first = limits.no_progress, limits.panel[0]
    gauge, sign = _gauge(first), _sign(first)
    values = [sign * one[gauge] for one in rounds if gauge in one]
    if len(values) <= own.num_rounds:
        return []
    before, lately = min(values[: -own.num_rounds]), min(values[-own.num_rounds :])
    limit = before - own.min_gain * abs(before)
    if lately <= limit:
        return []
    return [
        Alarm(
            "no_progress", own.action, gauge, sign * lately, sign * limit,
            f"the best of the last {own.num_rounds} rounds has gained less than "
            f"{own.min_gain:.0%} on the best before them: stop here, or larger groups",
        )
    ]  # fmt: skip
