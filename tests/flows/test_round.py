"""A round as a plan: who is made from whom, without computing anything."""

from pathlib import Path
from typing import Any

import pytest

from afd.artifacts import ArtifactRef
from afd.config import Params
from afd.params import load_params
from afd.runtime.request import StageName, StageRequest
from flows.baselines import play_round, play_start
from flows.dry_run import NotComputedError, state_before
from flows.state import CampaignState
from flows.tasks import Pending, Ready

PARAMS = Path(__file__).resolve().parents[2] / "params" / "tiny.yaml"


class Recorder:
    """Plans, and keeps what was asked for."""

    def __init__(self) -> None:
        self.asked: list[StageRequest] = []
        self.shows: dict[str, dict[str, object]] = {}  # kind -> summary

    def make(self, request: StageRequest) -> ArtifactRef:
        self.asked.append(request)
        return request.output

    def begin(self, request: StageRequest) -> Pending:
        return Ready(self.make(request))

    def summary(self, ref: ArtifactRef) -> dict[str, object]:
        return self.shows.get(ref.kind, {})

    def of(self, stage: StageName) -> list[StageRequest]:
        return [request for request in self.asked if request.stage == stage]


def played(num_rounds: int, *overrides: str) -> Recorder:
    params = load_params(Params, PARAMS, (), [f"num_rounds={num_rounds}", *overrides])
    recorder = Recorder()
    state = play_start(recorder, params)
    for _ in range(num_rounds):
        state = play_round(recorder, params, state)
    assert state == state_before(params, num_rounds)
    return recorder


def test_rollouts_are_on_policy() -> None:
    asked = played(3)
    (warm,) = asked.of("warmstart")
    students = [warm.output, *(request.output for request in asked.of("update"))]
    for index, (rollout, update) in enumerate(
        zip(asked.of("rollout"), asked.of("update"), strict=True)
    ):
        assert rollout.inputs["student"] == students[index]
        assert update.inputs["student"] == students[index]
        assert update.inputs["rollouts"] == rollout.output
        assert update.inputs["reference"] == warm.output
    assert len({student.fingerprint for student in students}) == 4


def test_off_policy_rollouts_stay_the_starting_students() -> None:
    asked = played(3, "rollout.refresh=never")
    (warm,) = asked.of("warmstart")
    assert all(rollout.inputs["student"] == warm.output for rollout in asked.of("rollout"))
    assert asked.of("update")[2].inputs["student"] == asked.of("update")[1].output


@pytest.mark.parametrize("replay", [0, 1, 2])
def test_fit_sees_this_round_and_the_last_ones(replay: int) -> None:
    asked = played(4, f"fit.replay_rounds={replay}")
    rollouts = [request.output for request in asked.of("rollout")]
    clips = [request.output for request in asked.of("harvest")[1:]]  # the first is held-out
    fits = asked.of("fit")
    for index, fit in enumerate(fits):
        window = range(index, max(-1, index - replay - 1), -1)
        assert [fit.inputs[f"rollouts_{age}"] for age in range(len(window))] == [
            rollouts[i] for i in window
        ]
        assert [fit.inputs[f"teacher_clips_{age}"] for age in range(len(window))] == [
            clips[i] for i in window
        ]
        assert f"rollouts_{len(window)}" not in fit.inputs
        before = fits[index - 1].output if index else None
        assert fit.inputs.get("discriminator") == before


def test_distribution_matching_has_a_critic_that_goes_on_and_no_discriminator() -> None:
    asked = played(
        3,
        "update.objective=distribution_matching",
        "update.critic={warmup_steps: 1, num_steps: 1, batch_size: 1, learning_rate: 1.0e-3}",
        "teacher.white_box={num_clips: 1, num_steps: 1, batch_size: 1, learning_rate: 1.0e-3, "
        "weight_decay: 0.0, warmup_steps: 0, ema_decay: 0.0, times: uniform}",
    )
    student, white_box = (request.output for request in asked.of("warmstart"))
    critics = [student, *(request.output for request in asked.of("critic"))]
    for index, (critic, update) in enumerate(
        zip(asked.of("critic"), asked.of("update"), strict=True)
    ):
        assert critic.inputs["critic"] == critics[index]
        assert critic.inputs["rollouts"] == update.inputs["rollouts"]
        assert update.inputs["critic"] == critics[index + 1]
        assert update.inputs["white_box"] == white_box
    assert not asked.of("fit")
    others = [request for request in asked.asked if request.makes_student]
    assert [request.stage for request in others] == ["warmstart", "update", "update", "update"]


def test_held_out_clips_reach_no_training_stage() -> None:
    asked = played(3)
    held_out = asked.of("harvest")[0]
    assert held_out.params["split"] == "held_out"
    trained = [request for stage in ("fit", "update") for request in asked.of(stage)]
    assert trained
    assert all(held_out.output not in request.inputs.values() for request in trained)


ALARMS = (
    "alarms.reward_hacking.action=roll_back",
    "alarms.collapse.action=more_fit_steps",
    "alarms.stillness.action=stop",
)


def steered(showed: list[Any]) -> tuple[Recorder, CampaignState]:
    """Rounds played as long as alarms allow, each of which shows what is given by role."""
    chosen = [f"num_rounds={len(showed)}", "fit.replay_rounds=9", *ALARMS]
    params = load_params(Params, PARAMS, (), chosen)
    recorder = Recorder()
    state = play_start(recorder, params)
    while not state.is_over(params):
        recorder.shows = showed[len(state.rounds)]
        state = play_round(recorder, params, state)
    return recorder, state


def shown(error: float, margin: float = 1.0, accuracy: float = 1.0, static: float = 0.0) -> Any:
    return {
        "discriminator_weights": {"margin": margin, "pair_accuracy": accuracy},
        "student_weights": {"static_share": static},
        "evaluation": {"trajectory_error_px": error},
    }


def test_after_a_roll_back_the_best_rounds_players_go_on_and_replay_only_what_led_to_them() -> None:
    asked, state = steered([shown(2.0), shown(1.0), shown(3.0, margin=0.5), shown(0.9)])
    rollouts, fits, updates = (asked.of(stage) for stage in ("rollout", "fit", "update"))
    best = updates[1].output
    assert state.alarm_state.lineage == (0, 1, 3)
    assert rollouts[3].inputs["student"] == updates[3].inputs["student"] == best
    assert updates[3].inputs["rollouts"] == rollouts[3].output
    assert fits[3].inputs["discriminator"] == fits[1].output
    replayed = [fits[3].inputs[f"rollouts_{age}"] for age in range(3)]
    assert replayed == [rollouts[3].output, rollouts[1].output, rollouts[0].output]
    assert "rollouts_3" not in fits[3].inputs
    assert rollouts[3].params["round_index"] == 3  # noise and prompts of its own
    assert state.student == updates[3].output and len(state.rounds) == 4


def test_a_roll_back_after_the_last_round_leaves_the_best_student_to_be_judged() -> None:
    asked, state = steered([shown(1.0), shown(3.0, margin=0.5)])
    assert state.student == asked.of("update")[0].output


def test_more_fit_steps_stand_in_the_request_of_the_next_round_alone() -> None:
    asked, _ = steered([shown(2.0, accuracy=0.5), shown(1.9), shown(1.8)])
    assert [fit.params["fit"]["num_steps"] for fit in asked.of("fit")] == [3, 6, 6]
    plain = played(3, "fit.replay_rounds=9").of("fit")
    assert asked.of("fit")[0].output == plain[0].output
    assert asked.of("fit")[1].output != plain[1].output


def test_a_stop_leaves_the_rounds_that_were_played() -> None:
    asked, state = steered([shown(2.0), shown(1.9, static=1.0), shown(1.0)])
    assert len(state.rounds) == len(asked.of("rollout")) == 2


def test_names_after_a_round_that_is_not_made_are_not_known_where_alarms_steer() -> None:
    params = load_params(Params, PARAMS, (), ALARMS)
    with pytest.raises(NotComputedError, match="in order"):
        state_before(params, 1)
