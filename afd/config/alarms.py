"""When the game is called sick, and what is done about it then.

Every action is `warn` unless params say otherwise, so that a campaign without alarms of its own is
what it was. Limits stand beside what a healthy pocket campaign shows (docs/alarms.md).
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from afd.config.values import Frozen, Listed, NonNegative, Positive, Share

Action = Literal["warn", "pause", "more_fit_steps", "fewer_fit_steps", "roll_back", "stop"]
STEERING: frozenset[Action] = frozenset({"more_fit_steps", "fewer_fit_steps", "roll_back", "stop"})


class PanelMetric(Frozen):
    """An independent measure of the rounds' evaluations, and how far it may leave the best one."""

    metric: str  # of the evaluation, without "evaluate/"
    better: Literal["low", "high"]
    band: NonNegative
    is_share: bool = False  # the band is a share of the best round's value


PANEL = (
    PanelMetric(metric="trajectory_error_px", better="low", band=0.1, is_share=True),
    PanelMetric(metric="object_permanence", better="high", band=0.03),
    PanelMetric(metric="interpenetration", better="low", band=0.1),
)


class SaturationAlarm(Frozen):
    """The discriminator tells the sides apart and no longer the members of a group."""

    action: Action = "warn"
    max_margin_to_spread: Positive = 30.0  # 4 to 13 over a healthy pocket campaign
    max_zero_spread_share: Share = 0.5


class CollapseAlarm(Frozen):
    """The discriminator cannot tell the sides apart after its fit."""

    action: Action = "warn"
    min_pair_accuracy: Share = 0.6  # chance is 1/2


class RewardHackingAlarm(Frozen):
    """The score rises while the panel that it never saw leaves its band around the best round."""

    action: Action = "warn"
    min_rank_correlation: Annotated[float, Field(ge=-1, le=1)] = -0.2  # chance is 0


class StillnessAlarm(Frozen):
    """Rollouts in which nothing moves, or which repeat each other inside a group."""

    action: Action = "warn"
    max_static_share: Share = 0.2
    max_duplicate_share: Share = 0.2


class NoProgressAlarm(Frozen):
    """The last rounds have brought nothing that the ones before had not."""

    action: Action = "warn"
    num_rounds: Annotated[int, Field(ge=1)] = 6
    min_gain: Share = 0.02  # of the panel's first metric, as a share


class AlarmsParams(Frozen):
    """The five alarms, the panel that two of them judge by, and the bounds of what they may do."""

    saturation: SaturationAlarm = SaturationAlarm()
    collapse: CollapseAlarm = CollapseAlarm()
    reward_hacking: RewardHackingAlarm = RewardHackingAlarm()
    stillness: StillnessAlarm = StillnessAlarm()
    no_progress: NoProgressAlarm = NoProgressAlarm()
    panel: Listed[tuple[PanelMetric, ...]] = PANEL  # the first one names the best round
    fit_steps_factor: Annotated[float, Field(gt=1)] = 2.0  # of more_fit_steps; fewer divides by it
    max_fit_steps_changes: Annotated[int, Field(ge=1)] = 2  # in either direction from fit.num_steps
    max_roll_backs: Annotated[int, Field(ge=1)] = 2  # then a campaign pauses

    @model_validator(mode="after")
    def _has_panel(self) -> "AlarmsParams":
        names = [one.metric for one in self.panel]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"panel must name at least one metric, each once, got {names}")
        return self

    @property
    def actions(self) -> dict[str, Action]:
        """What each alarm does."""
        return {
            "saturation": self.saturation.action,
            "collapse": self.collapse.action,
            "reward_hacking": self.reward_hacking.action,
            "stillness": self.stillness.action,
            "no_progress": self.no_progress.action,
        }

    @property
    def steers(self) -> bool:
        """Whether an alarm may change what later rounds are made from."""
        return bool(STEERING & set(self.actions.values()))
