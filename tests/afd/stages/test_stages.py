"""The stages on the smallest real campaign: what they leave, what they refuse, that they agree."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from afd.artifacts import Artifact
from afd.config import Params
from afd.data.shards import ShardError, read_clips
from afd.flow.solver import rollout
from afd.flow.times import step_list
from afd.params import load_params
from afd.stages import request
from afd.stages.door import execute
from afd.stages.fit import read_rounds
from afd.stages.outcome import RefusedError, status_of
from afd.stages.request import StageRequest
from afd.stages.update import (
    OffPolicyError,
    Players,
    choose,
    gather,
    refuse_off_policy,
    update_loss,
)
from afd.store import Store, StoreError
from afd.students.checkpoint import CheckpointError, load_student

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"


class Played:
    """One tiny round, stage by stage, in this process."""

    def __init__(self, root: Path, overrides: Sequence[str] = ()) -> None:
        self.store = Store(root)
        self.params = load_params(Params, TINY, (), overrides)
        self.prompt_set = self.make(request.prompts(self.params))
        base = self.prompt_set.ref
        self.student = self.make(request.warmstart(self.params, base))
        self.clips = self.make(request.harvest_round(self.params, base, 0))
        self.held_out = self.make(request.harvest_held_out(self.params, base))
        self.rollouts = self.make(request.rollout(self.params, base, self.student.ref, 0))
        self.judge = self.make(
            request.fit(self.params, [self.clips.ref], [self.rollouts.ref], None, 0)
        )
        self.updated = self.make(self.update())
        self.final = self.make(
            request.evaluate_final(
                self.params, base, self.updated.ref, self.student.ref, self.held_out.ref
            )
        )

    def make(self, asked: StageRequest) -> Artifact:
        return execute(asked, self.store)

    def update(self, **changed: Artifact) -> StageRequest:
        made = {"rollouts": self.rollouts, "discriminator": self.judge, "student": self.student}
        made |= changed
        refs = {role: artifact.ref for role, artifact in made.items()}
        return request.update(self.params, **refs, reference=self.student.ref, round_index=0)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("store"))


def test_update_refuses_rollouts_of_another_student(played: Played) -> None:
    with pytest.raises(OffPolicyError) as told:
        played.make(played.update(student=played.updated))
    assert played.student.manifest.fingerprint[:16] in str(told.value)
    assert played.updated.manifest.fingerprint[:16] in str(told.value)
    refuse_off_policy(played.rollouts, played.student)  # the maker itself is fine


class Recording:
    """A student that notes every t it is asked at."""

    def __init__(self, student: Any) -> None:
        self.student, self.geometry, self.seen = student, student.geometry, set[float]()

    def velocity(self, noisy: Tensor, t: Tensor, text: Tensor, clean: Tensor) -> Tensor:
        self.seen |= set(t.flatten().tolist())
        return self.student.velocity(noisy, t, text, clean)

    def start(self, text: Tensor) -> Any:
        return self.student.start(text)

    def block_velocity(self, noisy: Tensor, t: Tensor, cache: Any) -> Tensor:
        self.seen |= set(t.flatten().tolist())
        return self.student.block_velocity(noisy, t, cache)

    def commit(self, clean: Tensor, cache: Any) -> None:
        self.student.commit(clean, cache)


def players_and_lesson(played: Played) -> tuple[Any, Players, Any]:
    made = {"rollouts": played.rollouts, "discriminator": played.judge, "student": played.student}
    made |= {"reference": played.student}
    loaded, players = gather(made, off_policy=False)
    return loaded, players, choose(made, loaded, played.params.update, seed=1, round_index=0)


def test_training_runs_on_the_very_times_of_the_rollout(played: Played) -> None:
    loaded, players, lesson = players_and_lesson(played)
    wan = loaded.params
    rolled, trained = Recording(players.student), Recording(players.student)
    shape = (len(lesson.clean), wan.num_steps, *players.student.geometry.shape(1)[1:])
    rollout(rolled, lesson.text, torch.randn(shape), step_list(wan.num_steps, wan.shift))
    for draw in range(20):
        update_loss(
            players._replace(student=trained),
            lesson,
            torch.arange(len(lesson.clean)),
            played.params.update,
            wan,
            loaded.codec.variance,
            torch.Generator().manual_seed(draw),
        )
    assert trained.seen == rolled.seen
    assert len(rolled.seen) == wan.num_steps


def test_update_moves_the_student_and_nobody_else(played: Played) -> None:
    before = load_file(played.student.file("student.safetensors"))
    after = load_file(played.updated.file("student.safetensors"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)

    loaded, players, lesson = players_and_lesson(played)
    rows = torch.arange(len(lesson.clean))
    own, variance = played.params.update, loaded.codec.variance
    draw = torch.Generator().manual_seed(0)
    loss, _ = update_loss(players, lesson, rows, own, loaded.params, variance, draw)
    loss.backward()
    assert all(p.grad is not None for p in players.student.parameters())
    for frozen in (players.behaviour, players.reference):
        assert all(p.grad is None for p in frozen.parameters())


def test_rollouts_do_not_depend_on_batching(played: Played, tmp_path: Path) -> None:
    small = played.params.rollout.model_copy(update={"batch_size": 3})
    params = played.params.model_copy(update={"rollout": small})
    asked = request.rollout(params, played.prompt_set.ref, played.student.ref, 0)
    again = played.make(asked)
    ours = load_file(again.file("rollouts.safetensors"))["latents"]
    theirs = load_file(played.rollouts.file("rollouts.safetensors"))["latents"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_harvest_and_rollout_agree_on_the_prompts(played: Played) -> None:
    asked = pd.read_parquet(played.clips.file("clips.parquet"))["prompt"].tolist()
    answered = pd.read_parquet(played.rollouts.file("rollouts.parquet"))
    assert answered.groupby("group")["prompt"].first().tolist() == asked
    held_out = pd.read_parquet(played.held_out.file("clips.parquet"))["prompt"]
    assert not set(asked) & set(held_out)


def test_a_second_campaign_pays_for_nothing_it_can_read(played: Played) -> None:
    other = played.params.model_copy(update={"seed": 2})
    prompt_set = played.make(request.prompts(other))
    again = played.make(request.harvest_held_out(other, prompt_set.ref))
    assert played.held_out.manifest.summary["num_paid"] == 4
    assert again.manifest.summary["num_paid"] == 0


def test_a_clone_that_pulled_shards_pays_for_nothing_they_hold(
    played: Played, tmp_path: Path
) -> None:
    """clips/ is not tracked: other rounds of the same teacher fill it again from the shards."""
    copy = Store(tmp_path / "store")
    shutil.copytree(played.store.root, copy.root, ignore=shutil.ignore_patterns("clips"))
    other = played.params.model_copy(update={"seed": 5})
    prompt_set = execute(request.prompts(other), copy)
    asked = request.harvest_held_out(other, prompt_set.ref)
    again = execute(asked, copy)
    assert (again.manifest.summary["num_paid"], again.manifest.summary["num_reused"]) == (0, 4)
    films = [pd.read_parquet(of.file("clips.parquet")) for of in (again, played.held_out)]
    assert sorted(films[0]["sha256"]) == sorted(films[1]["sha256"])
    kept = {path.name for path in copy.clips.rglob("*.mp4")}
    assert len(kept) == 4 and kept <= {path.name for path in played.store.clips.rglob("*.mp4")}

    shutil.rmtree(again.path)
    shutil.rmtree(copy.clips)
    for tar in copy.root.glob("teacher_clips/*/clips.tar"):
        content = tar.read_bytes()
        tar.write_bytes(content[:700] + bytes([content[700] ^ 255]) + content[701:])
    with pytest.raises(StoreError, match=r"clips\.tar.*dvc pull"):
        execute(asked, copy)
    assert not list(copy.clips.rglob("*.mp4"))  # damaged is not lost: nothing was paid again


def test_a_changed_paid_video_is_named(played: Played) -> None:
    path = next(played.store.clips.rglob("*.mp4"))
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    other = played.params.model_copy(update={"seed": 3, "num_rounds": 1})
    try:
        with pytest.raises(StoreError, match=path.name):
            prompt_set = played.make(request.prompts(other))
            every = other.rollout.model_copy(update={"num_prompts": 428})
            wide = other.model_copy(update={"rollout": every})
            played.make(request.harvest_held_out(wide, prompt_set.ref))
            played.make(request.harvest_round(wide, prompt_set.ref, 0))
    finally:
        path.write_bytes(sound)


def test_a_corrupt_shard_is_named_with_its_cure(played: Played) -> None:
    tar = played.clips.file("clips.tar")
    sound = tar.read_bytes()
    middle = 700
    tar.write_bytes(sound[:middle] + bytes([sound[middle] ^ 255]) + sound[middle + 1 :])
    try:
        with pytest.raises(StoreError, match=r"clips\.tar.*dvc pull"):
            params = played.params.model_copy(update={"seed": 9})
            played.make(request.fit(params, [played.clips.ref], [played.rollouts.ref], None, 0))
    finally:
        tar.write_bytes(sound)


def test_a_shard_that_cannot_be_believed_is_the_stores_word(played: Played) -> None:
    tar = played.clips.file("clips.tar")
    sound = tar.read_bytes()
    tar.write_bytes(sound[:700] + bytes([sound[700] ^ 255]) + sound[701:])
    try:
        with pytest.raises(ShardError) as told:
            read_clips(played.clips.path, 16, 16)
    finally:
        tar.write_bytes(sound)
    assert status_of(told.value) == "store"


def test_training_needs_permission(played: Played) -> None:
    manifest = played.clips.manifest
    teacher = manifest.params["teacher"] | {"training_permitted": "unknown"}
    doubtful = manifest.model_copy(update={"params": manifest.params | {"teacher": teacher}})
    inputs = {
        "teacher_clips_0": replace(played.clips, manifest=doubtful),
        "rollouts_0": played.rollouts,
    }
    with pytest.raises(RefusedError, match=r"teacher\.training_permitted is 'unknown'") as told:
        read_rounds(inputs, played.store)
    assert status_of(told.value) == "refused"
    unread = played.params.teacher.model_copy(update={"training_permitted": "no"})
    params = played.params.model_copy(update={"teacher": unread})
    with pytest.raises(RefusedError, match="'no'"):
        request.fit(params, [played.clips.ref], [played.rollouts.ref], None, 0)


@pytest.mark.parametrize(("num_tokens", "dim"), [(24, 64), (30, 20)])
def test_every_stage_reads_the_prompts_as_the_student_does(
    tmp_path: Path, num_tokens: int, dim: int
) -> None:
    overrides = [f"student.num_text_tokens={num_tokens}", f"student.text_dim={dim}"]
    played = Played(tmp_path, overrides)
    rounds = read_rounds(
        {"teacher_clips_0": played.clips, "rollouts_0": played.rollouts}, played.store
    )
    assert rounds[0].text.shape == (4, num_tokens, dim)
    assert played.final.manifest.summary["num_failed"] == 0


def test_the_final_evaluation_says_everything(played: Played) -> None:
    summary = json.loads(played.final.file("summary.json").read_bytes())
    assert summary["num_prompts"] == 4
    wanted = {"trajectory_error_px", "gravity", "object_permanence", "interpenetration"}
    assert wanted | {"frechet_distance"} <= summary["metrics"].keys()
    for row in summary["metrics"].values():
        assert {"teacher", "base", "student", "difference", "interval"} <= row.keys()
    table = pd.read_parquet(played.final.file("per_prompt.parquet"))
    sides = table.groupby("side")["trajectory_error_px"].mean()
    row = summary["metrics"]["trajectory_error_px"]
    assert sides["student"] == pytest.approx(row["student"])
    assert sides["base"] == pytest.approx(row["base"])
    assert row["difference"] == pytest.approx(row["student"] - row["base"])


def test_weights_of_another_architecture_are_refused(played: Played, tmp_path: Path) -> None:
    for name in played.student.manifest.files:
        (tmp_path / name).write_bytes(played.student.file(name).read_bytes())
    described = json.loads((tmp_path / "student.json").read_text())
    described["params"]["ffn_dim"] *= 2
    (tmp_path / "student.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=r"ffn\.net"):
        load_student(tmp_path, "student")
