"""One round of Adversarial Flow Distillation: the algorithm box. READ FIRST.

    harvest   teacher videos for the round's prompts (paid once, kept for ever)
    rollout   the current student generates a group of videos a prompt
    fit       the discriminator learns to tell teacher from student on same-prompt pairs
    update    its scores weigh a flow-matching loss on the student's own rollouts
    evaluate  held-out prompts, always against the student before any round

`play_round` is the method; Prefect runs it as the flow `afd` (flows/deploy.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from afd.artifacts import ArtifactRef
from afd.config import Params
from afd.stages import request
from flows.session import Session
from flows.tasks import Plan, Played, Stages


@dataclass(frozen=True)
class Standing:
    """What rounds hand on to each other."""

    prompt_set: ArtifactRef
    held_out_clips: ArtifactRef
    reference: ArtifactRef  # the student before any round: baseline and anchor
    student: ArtifactRef
    discriminator: ArtifactRef | None = None
    rounds: tuple[Mapping[str, ArtifactRef], ...] = ()  # what each one made, by role


def play_start(stages: Stages, params: Params) -> Standing:
    """Before any round: prompts, the teacher on held-out ones, a student that needs teaching."""
    prompt_set = stages.make(request.prompts(params))
    held_out_clips = stages.begin(request.harvest_held_out(params, prompt_set))
    reference = stages.make(request.warmstart(params, prompt_set))
    return Standing(prompt_set, held_out_clips.result(), reference, student=reference)


def play_round(stages: Stages, params: Params, standing: Standing) -> Standing:
    """One round, from a standing to the next."""
    index = len(standing.rounds)
    on_policy = params.rollout.refresh == "every_round"
    behaviour = standing.student if on_policy else standing.reference

    harvested = stages.begin(request.harvest_round(params, standing.prompt_set, index))
    rollouts = stages.make(request.rollout(params, standing.prompt_set, behaviour, index))
    teacher_clips = harvested.result()

    replayed = standing.rounds[max(0, index - params.fit.replay_rounds) :]
    discriminator = stages.make(
        request.fit(
            params,
            [*(made["teacher_clips"] for made in replayed), teacher_clips],
            [*(made["rollouts"] for made in replayed), rollouts],
            standing.discriminator,
            index,
        )
    )
    student = stages.make(
        request.update(params, rollouts, discriminator, standing.student, standing.reference, index)
    )
    evaluation = stages.make(
        request.evaluate_round(params, standing.prompt_set, student, standing.reference)
    )
    made = {
        "teacher_clips": teacher_clips,
        "rollouts": rollouts,
        "discriminator": discriminator,
        "student": student,
        "evaluation": evaluation,
    }
    return replace(
        standing, student=student, discriminator=discriminator, rounds=(*standing.rounds, made)
    )


def standing_before(params: Params, index: int) -> Standing:
    """The standing that round `index` starts from: every name is known without computing."""
    plan = Plan()
    standing = play_start(plan, params)
    for _ in range(index):
        standing = play_round(plan, params, standing)
    return standing


def run_start(session: Session) -> Standing:
    """Make and keep what comes before the first round."""
    standing = play_start(Played(session, None), session.params)
    made = {
        "prompt_set": standing.prompt_set,
        "held_out_clips": standing.held_out_clips,
        "student": standing.reference,
    }
    session.close_round("start", made)
    return standing


def run_round(session: Session, standing: Standing) -> Standing:
    """Make and keep one round."""
    index = len(standing.rounds)
    session.lineage.start_round(index)
    after = play_round(Played(session, index), session.params, standing)
    session.close_round(f"{index:03d}", after.rounds[-1])
    session.lineage.finish_round(index)
    session.dispatch.end_round()
    return after
