"""One round of Adversarial Flow Distillation: the algorithm box. READ FIRST.

    harvest   teacher videos for the round's prompts (paid once, kept for ever)
    rollout   the current student generates a group of videos a prompt
    fit       the discriminator learns to tell teacher from student on same-prompt pairs
    update    its scores weigh a flow-matching loss on the student's own rollouts
    evaluate  held-out prompts, always against the student before any round

`play_round` is the method; Prefect runs it as the flow `afd` (flows/deploy.py). Other objectives
have rounds of their own (flows/baselines.py).
"""

from collections.abc import Mapping

from afd.artifacts import ArtifactRef
from afd.config import Params
from afd.evaluation import alarm_policy
from afd.stages import requests
from flows.state import CampaignState
from flows.tasks import Stages


def play_start(stages: Stages, params: Params) -> CampaignState:
    """Make what precedes the rounds: prompts, held-out teacher clips, the warm-started student."""
    prompt_set = stages.make(requests.prompts(params))
    held_out_clips = stages.begin(requests.harvest_held_out(params, prompt_set))
    reference = stages.make(requests.warmstart(params, prompt_set))
    return CampaignState(prompt_set, held_out_clips.result(), reference, student=reference)


def play_round(stages: Stages, params: Params, state: CampaignState) -> CampaignState:
    """Run one round of AFD and return the next state."""
    index, prompt_set = len(state.rounds), state.prompt_set
    harvest = stages.begin(requests.harvest_round(params, prompt_set, index))
    behaviour = state.behaviour_student(params)
    rollouts = stages.make(requests.rollout(params, prompt_set, behaviour, index))
    teacher_clips = [*state.replayed("teacher_clips", params), harvest.result()]
    student_clips = [*state.replayed("rollouts", params), rollouts]
    discriminator = stages.make(
        requests.fit(
            state.with_fit_of_alarms(params), teacher_clips, student_clips, state.discriminator,
            index, state.first_pairs,
        )
    )  # fmt: skip
    student = stages.make(
        requests.update(
            params, teacher_clips, rollouts, discriminator, state.student, state.reference, index
        )
    )
    evaluation = stages.make(requests.evaluate_round(params, prompt_set, student, state.reference))
    made = {
        "teacher_clips": teacher_clips[-1], "rollouts": rollouts, "discriminator": discriminator,
        "student": student, "evaluation": evaluation,
    }  # fmt: skip
    return state_after(stages, params, state, made)


def state_after(
    stages: Stages, params: Params, state: CampaignState, made: Mapping[str, ArtifactRef]
) -> CampaignState:
    """Return the state after a round that made these artifacts; alarms read their summaries."""
    gauges = alarm_policy.round_gauges({role: stages.summary(ref) for role, ref in made.items()})
    return state.after(made, gauges, params.alarms)
