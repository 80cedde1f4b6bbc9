"""The stages on the smallest real campaign: what they leave, what they refuse, that they agree."""

import gc
import json
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from afd.artifacts import Artifact
from afd.clips.library import StoredClip, clip_paths
from afd.clips.shards import ShardError, read_shard, read_table, write_shard
from afd.clips.verify import verify
from afd.config import Params
from afd.discriminators import checkpoint as discriminators
from afd.discriminators.build import AnyDiscriminator
from afd.flow import path
from afd.flow.solver import rollout
from afd.flow.times import step_list
from afd.losses.flow_matching import sft_loss
from afd.params import load_params
from afd.runtime.batches import Batch
from afd.runtime.outcome import RefusedError, status_of
from afd.runtime.parts import num_batches
from afd.runtime.request import StageRequest
from afd.stages import evaluate_batches, objectives, requests, update_data
from afd.stages.discriminator_inputs import holds_of, load_rollouts, load_teacher_clips
from afd.stages.evaluate import card
from afd.stages.execute import execute
from afd.stages.fit import read_rounds
from afd.stages.update import gather, refuse_off_policy
from afd.stages.update_data import OffPolicyError, from_rollouts, traced
from afd.store import Store, StoreError
from afd.students.checkpoint import CheckpointError, LoadedStudent, load_codec, load_student
from afd.students.update_models import UpdateModels
from afd.text.word_vectors import encode
from afd.video.canonical import CanonicalFormat, as_delivered, canonical, canonical_format
from afd.video.encode import encode as encode_film

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"


class Played:
    """One tiny round, stage by stage, in this process."""

    def __init__(self, root: Path, overrides: Sequence[str] = ()) -> None:
        self.store = Store(root)
        self.params = load_params(Params, TINY, (), overrides)
        self.prompt_set = self.make(requests.prompts(self.params))
        base = self.prompt_set.ref
        self.student = self.make(requests.warmstart(self.params, base))
        self.clips = self.make(requests.harvest_round(self.params, base, 0))
        self.held_out = self.make(requests.harvest_held_out(self.params, base))
        self.rollouts = self.make(requests.rollout(self.params, base, self.student.ref, 0))
        self.judge = self.make(
            requests.fit(self.params, [self.clips.ref], [self.rollouts.ref], None, 0)
        )
        self.updated = self.make(self.update())
        self.final = self.make(
            requests.evaluate_final(
                self.params, base, self.updated.ref, self.student.ref, self.held_out.ref
            )
        )

    def make(self, asked: StageRequest) -> Artifact:
        return execute(asked, self.store)

    def update(self, **changed: Artifact) -> StageRequest:
        made = {"rollouts": self.rollouts, "discriminator": self.judge, "student": self.student}
        made |= changed
        refs = {role: artifact.ref for role, artifact in made.items()}
        refs |= {"reference": self.student.ref, "teacher_clips": [self.clips.ref]}
        return requests.update(self.params, **refs, round_index=0)

    def update_by(self, objective: str) -> Artifact:
        """The student of another arm, from the same rollouts and discriminator."""
        own = self.params.update.model_copy(update={"objective": objective})
        arm = self.params.model_copy(update={"update": own})
        is_game = objective != "supervised"
        return self.make(
            requests.update(
                arm,
                [self.clips.ref],
                self.rollouts.ref if is_game else None,
                self.judge.ref if is_game else None,
                self.student.ref,
                self.student.ref,
                round_index=0,
            )
        )


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


def players_and_lesson(played: Played) -> tuple[Any, UpdateModels, Any]:
    made = {"rollouts": played.rollouts, "discriminator": played.judge, "student": played.student}
    made |= {"reference": played.student}
    loaded, players = gather({"refresh": "every_round", "behaviour": "student"}, made)
    own = played.params.update
    canon = canonical_format(played.updated.manifest.params)
    data = from_rollouts(made, played.store, canon, loaded, players.behaviour, own, 1, 0)
    return loaded, players, data


def test_training_runs_on_the_very_times_of_the_rollout(played: Played) -> None:
    loaded, players, data = players_and_lesson(played)
    wan = loaded.params
    rolled, trained = Recording(players.student), Recording(players.student)
    shape = (len(data.clean), wan.num_steps, *players.student.geometry.shape(1)[1:])
    rollout(rolled, data.text, torch.randn(shape), step_list(wan.num_steps, wan.shift))
    for draw in range(20):
        loss = objectives.build(played.params.update, replace(players, student=trained), data)
        rows = torch.arange(len(data.clean))
        loss(rows, torch.Generator().manual_seed(draw), slice(None))
    assert trained.seen == rolled.seen
    assert len(rolled.seen) == wan.num_steps


def test_update_moves_the_student_and_nobody_else(played: Played) -> None:
    before = load_file(played.student.file("student.safetensors"))
    after = load_file(played.updated.file("student.safetensors"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)

    _, players, data = players_and_lesson(played)
    rows = torch.arange(len(data.clean))
    objective = objectives.build(played.params.update, players, data)
    objective(rows, torch.Generator().manual_seed(0), slice(None))[0].backward()
    assert all(p.grad is not None for p in players.student.parameters())
    for frozen in (players.behaviour, players.reference):
        assert all(p.grad is None for p in frozen.parameters())


@pytest.mark.parametrize("objective", ["supervised", "generator", "reverse_chain"])
def test_every_arm_moves_the_student_from_where_afd_does(played: Played, objective: str) -> None:
    before = load_file(played.student.file("student.safetensors"))
    by_afd = load_file(played.updated.file("student.safetensors"))
    made = played.update_by(objective)
    after = load_file(made.file("student.safetensors"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(by_afd[name], after[name]) for name in before)
    assert made.manifest.summary["num_skipped"] == 0
    saw_rollouts = "rollouts" in made.manifest.made_from
    assert saw_rollouts == (objective != "supervised")


MATCHING = (
    "update.objective=distribution_matching",
    "update.critic={warmup_steps: 8, num_steps: 8, batch_size: 8, learning_rate: 2.0e-3}",
    "teacher.white_box={num_clips: 8, num_steps: 8, batch_size: 4, learning_rate: 2.0e-3, "
    "weight_decay: 0.0, warmup_steps: 0, ema_decay: 0.0, times: uniform}",
)


def test_distribution_matching_moves_the_student_from_its_critic_to_the_white_box(
    played: Played,
) -> None:
    params = load_params(Params, TINY, (), MATCHING)
    base, student, rollouts = played.prompt_set.ref, played.student.ref, played.rollouts.ref
    white_box = played.make(requests.white_box(params, base, student))
    critic = played.make(requests.critic(params, rollouts, student, 0))
    assert critic.manifest.summary["resumed_from_step"] == 0

    def by(teacher: Artifact) -> dict[str, Tensor]:
        matched = {"white_box": teacher.ref, "critic": critic.ref}
        made = played.make(
            requests.update(params, [], rollouts, None, student, student, 0, matched)
        )
        return load_file(made.file("student.safetensors"))

    before = load_file(played.student.file("student.safetensors"))
    # Where teacher and critic agree there is nothing to learn, to the last bit.
    assert all(torch.equal(before[name], value) for name, value in by(critic).items())
    assert any(not torch.equal(before[name], value) for name, value in by(white_box).items())


def test_a_critic_knows_the_rollouts_better_than_the_student_it_starts_from(
    played: Played,
) -> None:
    params = load_params(Params, TINY, (), MATCHING)
    made = played.make(requests.critic(params, played.rollouts.ref, played.student.ref, 0))
    data = update_data.from_samples(
        {"rollouts": played.rollouts}, load_student(made.path, "average")
    )
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(data.clean.shape, generator=draw)
    t = torch.full((len(data.clean), 4), 0.7)
    noisy = path.noisy(data.clean, noise, t)

    def loss(folder: Path) -> float:
        with torch.no_grad():
            velocity = load_student(folder, "average").student.velocity(
                noisy, t, data.text, data.clean
            )
        return float(sft_loss(velocity, clean=data.clean, noise=noise, t=t)[0])

    assert loss(made.path) < loss(played.student.path)


def test_slices_of_a_batch_add_up_to_the_batch_in_every_arm(played: Played) -> None:
    """Ranks compute slices: their weighted losses are the loss of the whole batch."""
    made = {"rollouts": played.rollouts, "discriminator": played.judge, "student": played.student}
    made |= {"reference": played.student, "teacher_clips": played.clips}
    loaded, players = gather({"refresh": "every_round", "behaviour": "student"}, made)
    for objective in ("forward_process", "reverse_chain", "generator"):
        own = played.params.update.model_copy(update={"objective": objective})
        canon = canonical_format(played.updated.manifest.params)
        data = from_rollouts(made, played.store, canon, loaded, players.behaviour, own, 1, 0)
        loss = objectives.build(own, players, data)
        rows = torch.arange(len(data.clean))
        whole, _ = loss(rows, torch.Generator().manual_seed(3), slice(None))
        half = len(rows) // 2
        parts = [
            loss(rows, torch.Generator().manual_seed(3), taken)[0]
            for taken in (slice(0, half), slice(half, len(rows)))
        ]
        torch.testing.assert_close(sum(parts) / 2, whole, rtol=1e-5, atol=1e-6)


def test_a_chain_that_ends_elsewhere_is_refused(played: Played) -> None:
    _, players, data = players_and_lesson(played)
    chain = traced(data, players.behaviour)
    assert chain.shape == (len(data.clean), len(data.steps), *data.clean.shape[1:])
    with pytest.raises(OffPolicyError, match="did not make them"):
        traced(replace(data, clean=data.clean + 0.1), players.behaviour)


def test_rollouts_do_not_depend_on_batching(played: Played, tmp_path: Path) -> None:
    small = played.params.rollout.model_copy(update={"batch_size": 3})
    params = played.params.model_copy(update={"rollout": small})
    asked = requests.rollout(params, played.prompt_set.ref, played.student.ref, 0)
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
    prompt_set = played.make(requests.prompts(other))
    again = played.make(requests.harvest_held_out(other, prompt_set.ref))
    assert played.held_out.manifest.summary["num_paid"] == 4
    assert again.manifest.summary["num_paid"] == 0


def test_a_clone_that_pulled_shards_pays_for_nothing_they_hold(
    played: Played, tmp_path: Path
) -> None:
    """clips/ is not tracked: other rounds of the same teacher fill it again from the shards."""
    copy = Store(tmp_path / "store")
    shutil.copytree(played.store.root, copy.root, ignore=shutil.ignore_patterns("clips"))
    other = played.params.model_copy(update={"seed": 5})
    prompt_set = execute(requests.prompts(other), copy)
    asked = requests.harvest_held_out(other, prompt_set.ref)
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
    with pytest.raises(StoreError, match=r"clips\.tar.*`afd resume NAME` makes it anew"):
        execute(asked, copy)
    # Damaged is not lost: what came back are sound rows of the shards, nothing was paid again.
    back = {path.name for path in copy.clips.rglob("*.mp4")}
    assert back < {path.name for path in played.store.clips.rglob("*.mp4")}


def test_a_clip_that_is_filmed_here_is_kept_as_every_other_one(
    played: Played, tmp_path: Path
) -> None:
    """By the vault's own rules: its note beside it, whole to `verify`."""
    copy = Store(tmp_path / "store")
    shutil.copytree(played.store.root, copy.root)
    assert verify(copy).is_whole
    for key, place in clip_paths(copy).items():
        about = StoredClip(key, place).provenance
        assert (about["key"], about["provider"]) == (key, "simulator")
        assert about["training_permitted"] == "yes" and about["prompt"]
    notes = {note: note.read_bytes() for note in copy.clips.rglob("*.json")}
    for note in notes:
        note.unlink()  # a store that is older than its notes: the next round writes them
    shutil.rmtree(copy.root / "teacher_clips")
    for made in (played.clips, played.held_out):
        execute(requests.harvest_round(played.params, played.prompt_set.ref, 0), copy)
        execute(requests.harvest_held_out(played.params, played.prompt_set.ref), copy)
        assert copy.have(made.ref)
    assert {note: note.read_bytes() for note in copy.clips.rglob("*.json")} == notes


def test_a_changed_paid_video_is_named(played: Played) -> None:
    path = next(played.store.clips.rglob("*.mp4"))
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    other = played.params.model_copy(update={"seed": 3, "num_rounds": 1})
    try:
        with pytest.raises(StoreError, match=path.name):
            prompt_set = played.make(requests.prompts(other))
            every = other.rollout.model_copy(update={"num_prompts": 428})
            wide = other.model_copy(update={"rollout": every})
            played.make(requests.harvest_held_out(wide, prompt_set.ref))
            played.make(requests.harvest_round(wide, prompt_set.ref, 0))
    finally:
        path.write_bytes(sound)


def test_a_corrupt_shard_is_named_with_its_cure(played: Played) -> None:
    tar = played.clips.file("clips.tar")
    sound = tar.read_bytes()
    middle = 700
    tar.write_bytes(sound[:middle] + bytes([sound[middle] ^ 255]) + sound[middle + 1 :])
    try:
        with pytest.raises(StoreError, match=r"clips\.tar.*`afd resume NAME` makes it anew"):
            params = played.params.model_copy(update={"seed": 9})
            played.make(requests.fit(params, [played.clips.ref], [played.rollouts.ref], None, 0))
    finally:
        tar.write_bytes(sound)


def test_a_shard_that_cannot_be_believed_is_the_stores_word(played: Played) -> None:
    tar = played.clips.file("clips.tar")
    sound = tar.read_bytes()
    tar.write_bytes(sound[:700] + bytes([sound[700] ^ 255]) + sound[701:])
    try:
        with pytest.raises(ShardError) as told:
            read_shard(played.clips.path)
    finally:
        tar.write_bytes(sound)
    assert status_of(told.value) == "store"


def judge(played: Played) -> AnyDiscriminator:
    wan = played.params.student
    return discriminators.load(
        played.judge.path, lambda prompts: encode(prompts, wan.num_text_tokens, wan.text_dim)
    )


def test_training_needs_permission(played: Played) -> None:
    manifest = played.clips.manifest
    teacher = manifest.params["teacher"] | {"training_permitted": "unknown"}
    doubtful = manifest.model_copy(update={"params": manifest.params | {"teacher": teacher}})
    inputs = {
        "teacher_clips_0": replace(played.clips, manifest=doubtful),
        "rollouts_0": played.rollouts,
    }
    with pytest.raises(RefusedError, match=r"teacher\.training_permitted is 'unknown'") as told:
        read_rounds(
            inputs, played.store, judge(played), canonical_format(played.updated.manifest.params)
        )
    assert status_of(told.value) == "refused"
    unread = played.params.teacher.model_copy(update={"training_permitted": "no"})
    params = played.params.model_copy(update={"teacher": unread})
    with pytest.raises(RefusedError, match="'no'"):
        requests.fit(params, [played.clips.ref], [played.rollouts.ref], None, 0)


@pytest.mark.parametrize(("num_tokens", "dim"), [(24, 64), (30, 20)])
def test_every_stage_reads_the_prompts_as_the_student_does(
    tmp_path: Path, num_tokens: int, dim: int
) -> None:
    overrides = [f"student.num_text_tokens={num_tokens}", f"student.text_dim={dim}"]
    played = Played(tmp_path, overrides)
    made = {"teacher_clips_0": played.clips, "rollouts_0": played.rollouts}
    rounds, _ = read_rounds(
        made, played.store, judge(played), canonical_format(played.updated.manifest.params)
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


def test_what_base_and_teacher_say_is_measured_once_and_read_to_the_bit(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, made_from = played.final.manifest.params, played.final.manifest.made_from
    inputs = {role: played.store.load(ref) for role, ref in made_from.items()}
    films = [film.side for film in evaluate_batches.cells_of(params, inputs)]
    asked: list[int] = []
    sample = evaluate_batches.sample
    monkeypatch.setattr(evaluate_batches, "sample", lambda *a: (asked.append(a[2]), sample(*a))[1])

    def looked(params: dict[str, Any]) -> tuple[list[int], list[Batch]]:
        asked.clear()
        compute = evaluate_batches.batches(params, inputs, played.store)
        made = [compute(n) for n in range(num_batches("evaluate", params, inputs))]
        return [*asked], made

    shutil.rmtree(played.store.root / ".cache" / "films")
    first, at_first = looked(params)
    again, read = looked(params)
    assert len(first) == len(films) - films.count("teacher")
    assert again == [int(seed) for seed in params["noise_seeds"]]  # the student's alone
    for one, other in zip(at_first, read, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name].nan_to_num(7), other[name].nan_to_num(7)) for name in one)
    assert looked(params | {"noise_seeds": [5, 6]})[0] == [5, 6, 5, 6, evaluate_batches.LOOK_SEED]


def test_an_evaluation_holds_one_student_at_a_time(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Student and base of 14B, with a cache beside them, do not fit 80 GB."""
    params, made_from = played.final.manifest.params, played.final.manifest.made_from
    inputs = {role: played.store.load(ref) for role, ref in made_from.items()}
    loaded: list[weakref.ref[nn.Module]] = []

    def load(folder: Path, which: Literal["student", "average"]) -> LoadedStudent:
        gc.collect()
        assert not any(one() for one in loaded), "the one before is still there"
        made = load_student(folder, which)
        loaded.append(weakref.ref(made.student))
        return made

    monkeypatch.setattr(evaluate_batches, "load_student", load)
    answer = evaluate_batches.sampler(params, inputs, evaluate_batches.prompts_of(params, inputs))
    for each in evaluate_batches.cells_of(params, inputs):
        answer(each, range(1))
    assert len(loaded) == 2


def test_twice_the_horizon_is_judged_block_by_block_on_another_card(played: Played) -> None:
    params = load_params(Params, TINY, (), ["evaluate.horizon=2"])
    asked = (played.prompt_set.ref, played.updated.ref, played.student.ref)
    made = played.make(requests.evaluate_horizon(params, *asked))
    summary = json.loads(made.file("summary.json").read_bytes())
    card = json.loads(made.file("card.json").read_bytes())
    assert (card["num_frames"], card["horizon"]) == (32, 2)
    assert {len(row) for row in summary["drift"]["student"].values()} == {8}
    assert summary["drift"].keys() == {"student", "base"}
    left = {name: made.file(name).read_bytes() for name in made.manifest.files}
    shutil.rmtree(made.path)  # made again, with what the base said out of the cache
    again = played.make(requests.evaluate_horizon(params, *asked))
    assert {name: again.file(name).read_bytes() for name in again.manifest.files} == left
    # Who does not ask for it has the evaluation that was there before.
    final = (*asked, played.held_out.ref)
    asked_again = requests.evaluate_final(params, *final)
    assert asked_again.output == requests.evaluate_final(played.params, *final).output


def test_campaigns_of_two_training_seeds_share_a_card(played: Played) -> None:
    """The teacher's held-out clips are the same ones, harvested in another order."""
    other = load_params(Params, TINY, (), ["seed=2"])
    prompt_set = played.make(requests.prompts(other))
    clips = played.make(requests.harvest_held_out(other, prompt_set.ref))
    assert clips.ref != played.held_out.ref
    told = played.final.manifest.params
    cards = [card(told, [], {"teacher_clips": shard}) for shard in (played.held_out, clips)]
    assert cards[0] == cards[1]
    assert cards[0]["teacher_clips"] is not None


def test_weights_of_another_architecture_are_refused(played: Played, tmp_path: Path) -> None:
    for name in played.student.manifest.files:
        (tmp_path / name).write_bytes(played.student.file(name).read_bytes())
    described = json.loads((tmp_path / "student.json").read_text())
    described["params"]["ffn_dim"] *= 2
    (tmp_path / "student.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=r"ffn\.net"):
        load_student(tmp_path, "student")


def test_both_sides_are_seen_through_one_path_and_read_again_from_the_cache(
    played: Played,
) -> None:
    """Against the path taken clip by clip; a damaged entry is made again."""
    canon = canonical_format(played.judge.manifest.params)
    cache = played.store.root / ".cache" / "seen"
    seen = load_rollouts(played.rollouts, played.store, canon)
    codec = load_codec(played.student.path)
    latents = load_file(played.rollouts.file("rollouts.safetensors"))["latents"]
    picture = (codec.decode(latents[3:4])[0] * 255).round().to(torch.uint8)
    alone = canonical(as_delivered(picture.permute(0, 2, 3, 1).numpy(), canon), canon)
    assert torch.equal(seen[3], torch.tensor(alone.transpose(0, 3, 1, 2)))

    files = {file: file.read_bytes() for file in cache.iterdir()}
    assert len(files) == 2  # fit made them, for teacher and rollouts; update only read
    for file, content in files.items():
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))
    assert torch.equal(load_rollouts(played.rollouts, played.store, canon), seen)
    teacher, table = load_teacher_clips(played.clips, played.rollouts, played.store, canon)
    assert teacher.shape == (4, 16, 3, 16, 16) and len(table) == 4
    assert {file: file.read_bytes() for file in cache.iterdir()} == files

    coarser = CanonicalFormat(canon.params.model_copy(update={"qp": 40}), *[16] * 3)
    assert not torch.equal(load_rollouts(played.rollouts, played.store, coarser), seen)
    assert len(list(cache.iterdir())) == 3


def test_a_teacher_of_another_rate_is_shown_in_one_rhythm_with_its_rollouts(
    played: Played, tmp_path: Path
) -> None:
    canon = canonical_format(played.judge.manifest.params)
    canon = replace(canon, params=canon.params.model_copy(update={"longer": "first"}))
    table = read_table(played.clips.path)
    rows = table[["prompt_id", "prompt", "seed"]].to_dict("records")
    light = np.arange(24, dtype=np.uint8)[:, None, None, None] * 8 + 20
    film = np.broadcast_to(light, (24, 64, 64, 3)).copy()
    rates = [24, 24, 24, 16]
    write_shard(
        tmp_path,
        [
            row | {"bytes": encode_film(film[:rate], rate)}
            for row, rate in zip(rows, rates, strict=True)
        ],
    )
    clips: Any = SimpleNamespace(path=tmp_path, manifest=SimpleNamespace(fingerprint="of 24"))
    seen, about = load_teacher_clips(clips, played.rollouts, played.store, canon)
    assert holds_of(about, canon) == [2, 2, 2, 1]
    shown = (seen[:, :8].float().mean(dim=(2, 3, 4)) - 20) / 8
    picked = [0, 0, 3, 3, 6, 6, 9, 9]
    torch.testing.assert_close(shown[0], torch.tensor(picked).float(), atol=0.2, rtol=0)
    torch.testing.assert_close(shown[3], torch.arange(8).float(), atol=0.2, rtol=0)

    latents = load_file(played.rollouts.file("rollouts.safetensors"))["latents"]
    picture = (load_codec(played.student.path).decode(latents[1:2])[0] * 255).round()
    delivered = as_delivered(picture.to(torch.uint8).permute(0, 2, 3, 1).numpy(), canon)
    alone = canonical(delivered, replace(canon, hold=2))
    holds = [2] * 3 + [1] * (len(latents) - 3)
    rollouts = load_rollouts(played.rollouts, played.store, canon, holds)
    assert torch.equal(rollouts[1], torch.tensor(alone.transpose(0, 3, 1, 2)))
    even = load_rollouts(played.rollouts, played.store, canon)
    assert torch.equal(rollouts[3:], even[3:]) and not torch.equal(rollouts[1], even[1])
