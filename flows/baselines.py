"""Rounds of every objective: AFD's own (flows/round.py), and the baselines over the same stages.

supervised              copies the teacher's clips: no rollouts, no discriminator
distribution_matching   compares the velocities of two networks: a critic in place of a
                        discriminator, and a white box that knows the teacher's own velocities
generator, reverse_chain   AFD's round; the update stage has another loss
"""

from dataclasses import replace

from afd.config import Params
from afd.stages import requests
from flows import round as algorithm
from flows.round import state_after
from flows.state import CampaignState
from flows.tasks import Stages


def play_start(stages: Stages, params: Params) -> CampaignState:
    """Make what precedes the rounds of the objective in `params`."""
    match params.update.objective:
        case "distribution_matching":
            return _start_matching(stages, params)
        case "forward_process" | "reverse_chain" | "generator" | "supervised":
            return algorithm.play_start(stages, params)


def play_round(stages: Stages, params: Params, state: CampaignState) -> CampaignState:
    """Run one round of the objective in `params` and return the next state."""
    match params.update.objective:
        case "forward_process" | "reverse_chain" | "generator":
            return algorithm.play_round(stages, params, state)
        case "supervised":
            return _play_supervised(stages, params, state)
        case "distribution_matching":
            return _play_matching(stages, params, state)


def _play_supervised(stages: Stages, params: Params, state: CampaignState) -> CampaignState:
    """Fine-tune on the clips of this round and of replayed ones."""
    index = len(state.rounds)
    harvested = stages.make(requests.harvest_round(params, state.prompt_set, index))
    teacher_clips = [*state.replayed("teacher_clips", params), harvested]
    student = stages.make(
        requests.update(params, teacher_clips, None, None, state.student, state.reference, index)
    )
    evaluation = stages.make(
        requests.evaluate_round(params, state.prompt_set, student, state.reference)
    )
    made = {"teacher_clips": harvested, "student": student, "evaluation": evaluation}
    return state_after(stages, params, state, made)


def _start_matching(stages: Stages, params: Params) -> CampaignState:
    """Make AFD's start, and the network that knows the teacher's velocities."""
    state = algorithm.play_start(stages, params)
    white_box = stages.make(requests.white_box(params, state.prompt_set, state.reference))
    return replace(state, white_box=white_box)


def _play_matching(stages: Stages, params: Params, state: CampaignState) -> CampaignState:
    """Train the critic on the rollouts, then the student on both networks' velocities."""
    if state.white_box is None:
        raise ValueError("distribution matching needs the white box that its start makes")
    index, prompt_set = len(state.rounds), state.prompt_set
    harvest = stages.begin(requests.harvest_round(params, prompt_set, index))
    behaviour = state.behaviour_student(params)
    rollouts = stages.make(requests.rollout(params, prompt_set, behaviour, index))
    teacher_clips = harvest.result()
    before = state.last_made("critic") or state.reference
    critic = stages.make(requests.critic(params, rollouts, before, index))
    matched = {"white_box": state.white_box, "critic": critic}
    student = stages.make(
        requests.update(
            params, [teacher_clips], rollouts, None, state.student, state.reference, index, matched
        )
    )
    evaluation = stages.make(requests.evaluate_round(params, prompt_set, student, state.reference))
    made = {
        "teacher_clips": teacher_clips, "rollouts": rollouts, "critic": critic,
        "student": student, "evaluation": evaluation,
    }  # fmt: skip
    return state_after(stages, params, state, made)
