"""One round of Adversarial Flow Distillation: the algorithm box. READ FIRST.

    harvest   teacher videos for the round's prompts (paid once, kept for ever)
    rollout   the current student generates a group of videos a prompt
    fit       the discriminator learns to tell teacher from student on same-prompt pairs
    update    its scores weigh a flow-matching loss on the student's own rollouts
    evaluate  held-out prompts, always against the student before any round

`play_round` is the method; Prefect runs it as the flow `afd` (flows/deploy.py).
"""

from afd.config import Params
from afd.evaluation import course
from afd.stages import requests
from flows.state import CampaignState
from flows.tasks import Stages


def play_start(stages: Stages, params: Params) -> CampaignState:
    """Make what precedes the rounds: prompts, held-out teacher clips, the warm-started student."""
    prompt_set = stages.make(requests.prompts(params))
    held_out_clips = stages.begin(requests.harvest_held_out(params, prompt_set))
    reference = stages.make(requests.warmstart(params, prompt_set))
    white_box = None
    if params.update.objective == "distribution_matching":
        white_box = stages.make(requests.white_box(params, prompt_set, reference))
    return CampaignState(
        prompt_set, held_out_clips.result(), reference, student=reference, white_box=white_box
    )


def play_round(stages: Stages, params: Params, state: CampaignState) -> CampaignState:
    """Run one round and return the next state."""
    index, prompt_set = len(state.rounds), state.prompt_set
    fit = state.course.fit(params.fit, params.alarms)
    own = params if fit == params.fit else params.model_copy(update={"fit": fit})
    harvested = stages.begin(requests.harvest_round(params, prompt_set, index))
    rollouts = discriminator = critic = None
    if params.update.objective != "supervised":  # the sft arm: no rollouts, nobody to convince
        rollouts = stages.make(
            requests.rollout(params, prompt_set, state.behaviour_student(params), index)
        )
    teacher_clips = [*state.replayed("teacher_clips", params), harvested.result()]
    if rollouts and state.white_box:  # the dmd arm: velocities in place of a discriminator
        critic = stages.make(requests.critic(params, rollouts, state.critic, index))
    elif rollouts:
        student_clips = [*state.replayed("rollouts", params), rollouts]
        discriminator = stages.make(
            requests.fit(
                own, teacher_clips, student_clips, state.discriminator, index, state.first_pairs
            )
        )
    student = stages.make(
        requests.update(
            params, teacher_clips, rollouts, discriminator, state.student, state.reference, index,
            state.matching_models(critic),
        )
    )  # fmt: skip
    evaluation = stages.make(requests.evaluate_round(params, prompt_set, student, state.reference))
    made = {
        "teacher_clips": teacher_clips[-1],
        "rollouts": rollouts,
        "discriminator": discriminator,
        "critic": critic,
        "student": student,
        "evaluation": evaluation,
    }
    refs = {role: ref for role, ref in made.items() if ref is not None}
    gauges = course.gauges({role: stages.summary(ref) for role, ref in refs.items()})
    return state.after(refs, gauges, params.alarms)
