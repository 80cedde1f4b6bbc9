"""State of a campaign between two rounds: current models, artifacts, decisions of alarms."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from afd.artifacts import ArtifactRef
from afd.config import AlarmsParams, Params
from afd.evaluation import alarm_policy
from afd.evaluation.alarm_policy import AlarmState
from afd.evaluation.alarms import Gauges


@dataclass(frozen=True)
class CampaignState:
    """State that one round hands on to the next."""

    prompt_set: ArtifactRef
    held_out_clips: ArtifactRef
    reference: ArtifactRef  # the student before any round: baseline and prior
    student: ArtifactRef
    discriminator: ArtifactRef | None = None
    white_box: ArtifactRef | None = None  # the dmd arm's teacher
    rounds: tuple[Mapping[str, ArtifactRef], ...] = ()  # artifacts of each, by role
    gauges: tuple[Gauges, ...] = ()  # metrics that alarms watch, of each
    alarm_state: AlarmState = field(default_factory=AlarmState)  # decisions of the alarms

    def behaviour_student(self, params: Params) -> ArtifactRef:
        """Return the student that rolls out; the reference in the off-policy arm."""
        return self.student if params.rollout.refresh == "every_round" else self.reference

    def replayed(self, role: str, params: Params) -> list[ArtifactRef]:
        """Return a role's artifacts of the last `fit.replay_rounds` rounds, oldest first."""
        lineage = self.alarm_state.lineage
        return [
            self.rounds[i][role] for i in lineage[max(0, len(lineage) - params.fit.replay_rounds) :]
        ]

    def last_made(self, role: str) -> ArtifactRef | None:
        """Return a role's artifact of the round that the current student is from."""
        return self.rounds[self.alarm_state.lineage[-1]][role] if self.rounds else None

    def with_fit_of_alarms(self, params: Params) -> Params:
        """Return `params` with the discriminator's fit as alarms have changed it."""
        fit = self.alarm_state.fit_params(params.fit, params.alarms)
        return params if fit == params.fit else params.model_copy(update={"fit": fit})

    @property
    def first_pairs(self) -> tuple[ArtifactRef, ArtifactRef] | None:
        """The first round's pairs, on which every discriminator is measured."""
        first = self.rounds[0] if self.rounds else None
        return None if first is None else (first["teacher_clips"], first["rollouts"])

    def after(
        self, made: Mapping[str, ArtifactRef], showed: Gauges, alarms: AlarmsParams
    ) -> "CampaignState":
        """Return the state after a round, with its own models or those that alarms chose."""
        rounds, gauges = (*self.rounds, made), (*self.gauges, showed)
        followed = alarm_policy.next_state(self.alarm_state, gauges, alarms)
        last = rounds[followed.lineage[-1]]
        return replace(
            self, student=last["student"], discriminator=last.get("discriminator"),
            rounds=rounds, gauges=gauges, alarm_state=followed,
        )  # fmt: skip

    def is_over(self, params: Params) -> bool:
        """Return whether no round is left: all are done, or an alarm has stopped the campaign."""
        return len(self.rounds) >= params.num_rounds or self.alarm_state.ends == "stops"
