"""Alarms of adversarial training: their limits, and the action on each.

Every action is `warn` unless params set another one, so a campaign without alarms of its own runs
as before. Each limit stands beside the value of a healthy pocket campaign (docs/alarms.md).
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from afd.config.values import Listed, NonNegative, Positive, Section, Share

Action = Literal["warn", "pause", "more_fit_steps", "fewer_fit_steps", "roll_back", "stop"]
STEERING: frozenset[Action] = frozenset({"more_fit_steps", "fewer_fit_steps", "roll_back", "stop"})


class PanelMetric(Section):
    """Independent metric of the rounds' evaluations, and its allowed distance from the best."""

    metric: str
    """A metric of the rounds' evaluations, without "evaluate/": trajectory_error_px."""
    better: Literal["low", "high"]
    """The better direction."""
    band: NonNegative
    """Distance from the best round that is still healthy, in the metric's unit; 0 or more."""
    is_share: bool = False
    """The band is a share of the best round's value."""


PANEL = (
    PanelMetric(metric="trajectory_error_px", better="low", band=0.1, is_share=True),
    PanelMetric(metric="object_permanence", better="high", band=0.03),
    PanelMetric(metric="interpenetration", better="low", band=0.1),
)


class SaturationAlarm(Section):
    """Alarm on scores that separate the sides and no longer the members of a group."""

    action: Action = "warn"
    """The action on this alarm."""
    max_margin_to_spread: Positive = 30.0
    """Largest margin between the sides, in standard deviations of a group's scores; a healthy
    pocket campaign shows 4 to 13."""
    max_zero_spread_share: Share = 0.5
    """Largest share of groups whose members score alike, 0 to 1."""


class CollapseAlarm(Section):
    """Alarm on a discriminator that cannot separate the sides after its fit."""

    action: Action = "warn"
    """The action on this alarm."""
    min_pair_accuracy: Share = 0.6
    """Least share of pairs that the discriminator orders correctly after its fit, 0 to 1; chance
    is 0.5."""


class RewardHackingAlarm(Section):
    """The score rises while the panel, which is no part of it, leaves its band."""

    action: Action = "warn"
    """The action on this alarm."""
    min_rank_correlation: Annotated[float, Field(ge=-1, le=1)] = -0.2
    """Least rank correlation between score and panel over the rounds, -1 to 1; chance is 0."""


class StillnessAlarm(Section):
    """Rollouts without motion, or repeats inside a group."""

    action: Action = "warn"
    """The action on this alarm."""
    max_static_share: Share = 0.2
    """Largest share of rollouts in which nothing moves, 0 to 1."""
    max_duplicate_share: Share = 0.2
    """Largest share of rollouts that repeat another of their group, 0 to 1."""


class NoProgressAlarm(Section):
    """The last rounds brought no gain over the rounds before."""

    action: Action = "warn"
    """The action on this alarm."""
    num_rounds: Annotated[int, Field(ge=1)] = 6
    """Rounds without a gain before the alarm, 1 or more."""
    min_gain: Share = 0.02
    """Least gain of the panel's first metric over those rounds, as a share, 0 to 1."""


class AlarmsParams(Section):
    """The five alarms, the panel that two of them measure by, and the bounds of their actions."""

    saturation: SaturationAlarm = SaturationAlarm()
    """The discriminator separates the sides and no longer the members of a group."""
    collapse: CollapseAlarm = CollapseAlarm()
    """The discriminator cannot separate the sides after its fit."""
    reward_hacking: RewardHackingAlarm = RewardHackingAlarm()
    """The score rises while the panel leaves its band."""
    stillness: StillnessAlarm = StillnessAlarm()
    """Rollouts stand still or repeat each other."""
    no_progress: NoProgressAlarm = NoProgressAlarm()
    """The last rounds brought nothing."""
    panel: Listed[tuple[PanelMetric, ...]] = PANEL
    """Metrics that reward_hacking and no_progress use; the first names the best round."""
    fit_steps_factor: Annotated[float, Field(gt=1)] = 2.0
    """Factor of more_fit_steps on fit.num_steps, above 1; fewer_fit_steps divides by it."""
    max_fit_steps_changes: Annotated[int, Field(ge=1)] = 2
    """Changes of fit.num_steps in either direction, 1 or more."""
    max_roll_backs: Annotated[int, Field(ge=1)] = 2
    """Roll-backs before a campaign pauses, 1 or more."""

    @model_validator(mode="after")
    def _has_panel(self) -> "AlarmsParams":
        names = [one.metric for one in self.panel]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"panel must name at least one metric, each once, got {names}")
        return self

    @property
    def actions(self) -> dict[str, Action]:
        """Action of each alarm, by the alarm's name."""
        return {
            "saturation": self.saturation.action,
            "collapse": self.collapse.action,
            "reward_hacking": self.reward_hacking.action,
            "stillness": self.stillness.action,
            "no_progress": self.no_progress.action,
        }

    @property
    def steers(self) -> bool:
        """True where an alarm may change the inputs of later rounds."""
        return bool(STEERING & set(self.actions.values()))
