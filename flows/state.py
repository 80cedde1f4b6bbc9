"""Where a campaign stands between two rounds: who plays, what was made, what alarms made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from afd.artifacts import ArtifactRef
from afd.config import AlarmsParams, Params
from afd.evaluation import course
from afd.evaluation.alarms import Gauges
from afd.evaluation.course import Course


@dataclass(frozen=True)
class CampaignState:
    """What rounds hand on to each other."""

    prompt_set: ArtifactRef
    held_out_clips: ArtifactRef
    reference: ArtifactRef  # the student before any round: baseline and anchor
    student: ArtifactRef
    discriminator: ArtifactRef | None = None
    white_box: ArtifactRef | None = None  # the dmd arm's teacher
    rounds: tuple[Mapping[str, ArtifactRef], ...] = ()  # what each one made, by role
    gauges: tuple[Gauges, ...] = ()  # what each one showed
    course: Course = field(default_factory=Course)  # what the alarms have made of it

    def behaviour_student(self, params: Params) -> ArtifactRef:
        """Who rolls out: the student, but for the off-policy arm."""
        return self.student if params.rollout.refresh == "every_round" else self.reference

    def replayed(self, role: str, params: Params) -> list[ArtifactRef]:
        """What the last rounds on the way to this student left for the fit, the oldest first."""
        line = self.course.line
        return [self.rounds[i][role] for i in line[max(0, len(line) - params.fit.replay_rounds) :]]

    @property
    def critic(self) -> ArtifactRef:
        """The dmd arm's critic on the way to this student; at first the one it starts from."""
        return self.rounds[self.course.line[-1]]["critic"] if self.rounds else self.reference

    def matching_models(self, critic: ArtifactRef | None) -> dict[str, ArtifactRef]:
        """Whose velocities the dmd arm matches; of every other arm nobody's."""
        if critic is None or self.white_box is None:
            return {}
        return {"white_box": self.white_box, "critic": critic}

    @property
    def first_pairs(self) -> tuple[ArtifactRef, ArtifactRef] | None:
        """The first round's pairs, on which every discriminator is measured."""
        first = self.rounds[0] if self.rounds else None
        return None if first is None else (first["teacher_clips"], first["rollouts"])

    def after(
        self, made: Mapping[str, ArtifactRef], showed: Gauges, alarms: AlarmsParams
    ) -> "CampaignState":
        """After a round that made and showed these: its own players, or those that alarms chose."""
        rounds, gauges = (*self.rounds, made), (*self.gauges, showed)
        followed = course.after(self.course, gauges, alarms)
        last = rounds[followed.line[-1]]
        return replace(
            self, student=last["student"], discriminator=last.get("discriminator"),
            rounds=rounds, gauges=gauges, course=followed,
        )  # fmt: skip

    def is_over(self, params: Params) -> bool:
        """Whether no round is left: all are played, or an alarm has stopped them."""
        return len(self.rounds) >= params.num_rounds or self.course.ends == "stops"
