"""A round as a plan: who is made from whom, without computing anything."""

from pathlib import Path

import pytest

from afd.artifacts import ArtifactRef
from afd.config import Params
from afd.params import load_params
from afd.stages.request import StageName, StageRequest
from flows.round import play_round, play_start, standing_before
from flows.tasks import Named, Pending

PARAMS = Path(__file__).resolve().parents[2] / "params" / "tiny.yaml"


class Recorder:
    """Plans, and keeps what was asked for."""

    def __init__(self) -> None:
        self.asked: list[StageRequest] = []

    def make(self, request: StageRequest) -> ArtifactRef:
        self.asked.append(request)
        return request.output

    def begin(self, request: StageRequest) -> Pending:
        return Named(self.make(request))

    def of(self, stage: StageName) -> list[StageRequest]:
        return [request for request in self.asked if request.stage == stage]


def played(num_rounds: int, *overrides: str) -> Recorder:
    params = load_params(Params, PARAMS, (), [f"num_rounds={num_rounds}", *overrides])
    recorder = Recorder()
    standing = play_start(recorder, params)
    for _ in range(num_rounds):
        standing = play_round(recorder, params, standing)
    assert standing == standing_before(params, num_rounds)
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


def test_held_out_clips_reach_no_training_stage() -> None:
    asked = played(3)
    held_out = asked.of("harvest")[0]
    assert held_out.params["split"] == "held_out"
    trained = [request for stage in ("fit", "update") for request in asked.of(stage)]
    assert trained
    assert all(held_out.output not in request.inputs.values() for request in trained)
