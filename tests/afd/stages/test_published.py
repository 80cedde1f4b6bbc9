"""A round of a published student with tiny real parts: Self-Forcing's file, Wan's VAE, UMT5."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file

from afd.artifacts import Artifact
from afd.config import Params
from afd.errors import EXIT_CODE
from afd.params import ParamsError, load_params
from afd.runtime.micro_batches import TooLargeError
from afd.runtime.outcome import RefusedError, status_of
from afd.runtime.request import StageRequest
from afd.stages import requests, update
from afd.stages.__main__ import main
from afd.stages.execute import execute
from afd.stages.update_data import OffPolicyError
from afd.store import Store
from afd.students import export
from afd.students.causal_wan import CausalWan
from afd.students.checkpoint import load_student
from afd.students.strict_loading import CheckpointError, UntrainableError
from afd.students.wan_checkpoints import load_wan
from afd.text.encoder import TextError
from tests.afd.stages.conftest import Forge, with_inputs
from tests.afd.stages.test_ranks import start
from tests.afd.students.tiny_parts import (
    HEAD_DIM,
    TEXT_DIM,
    save_anyflow_far,
    save_components,
    save_self_forcing,
)

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
OVERLAY = Path(__file__).with_name("published.yaml")


def params_of(files: Path, *overrides: str) -> Params:
    paths = (f"student.checkpoint={files / 'self_forcing.pt'}", f"student.components={files}")
    return load_params(Params, TINY, [OVERLAY], [*paths, *overrides])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_components(tmp_path_factory.mktemp("weights"))
    save_self_forcing(folder / "self_forcing.pt")
    return folder


class Round:
    """One round, stage by stage, in this process."""

    def __init__(self, root: Path, params: Params) -> None:
        self.store, self.params = Store(root), params
        self.prompts = self.make(requests.prompts(params)).ref
        self.base = self.make(requests.warmstart(params, self.prompts))
        self.clips = self.make(requests.harvest_round(params, self.prompts, 0))
        self.rollouts = self.make(requests.rollout(params, self.prompts, self.base.ref, 0))
        self.judge = self.make(requests.fit(params, [self.clips.ref], [self.rollouts.ref], None, 0))
        self.student = self.make(self.update())

    def make(self, asked: StageRequest) -> Artifact:
        return execute(asked, self.store)

    def update(self) -> StageRequest:
        refs = [made.ref for made in (self.rollouts, self.judge, self.base, self.base)]
        return requests.update(self.params, [self.clips.ref], *refs, round_index=0)


@pytest.fixture(scope="module")
def played(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Round:
    return Round(tmp_path_factory.mktemp("store"), params_of(files))


def test_only_the_lora_is_kept_of_a_round(played: Round):
    assert {"base.safetensors", "text.safetensors", "codec.safetensors"} <= {
        *played.base.manifest.files
    }
    assert not {"base.safetensors", "text.safetensors"} & {*played.student.manifest.files}
    before = load_file(played.base.file("student.safetensors"))
    after = load_file(played.student.file("student.safetensors"))
    assert before.keys() == after.keys() and all(".lora_" in name for name in after)
    assert all(before[name].abs().max() == 0 for name in before if "lora_B" in name)
    moved = [name for name in after if not torch.equal(after[name], before[name])]
    assert len(moved) == len(after) and played.student.manifest.summary["num_skipped"] == 0


def test_the_next_round_goes_on_from_it(played: Round):
    rollouts = played.make(requests.rollout(played.params, played.prompts, played.student.ref, 1))
    clips = played.make(requests.harvest_round(played.params, played.prompts, 1))
    judge = played.make(
        requests.fit(
            played.params,
            [played.clips.ref, clips.ref],
            [played.rollouts.ref, rollouts.ref],
            played.judge.ref,
            1,
        )
    )
    refs = [made.ref for made in (rollouts, judge, played.student, played.base)]
    student = played.make(requests.update(played.params, [clips.ref], *refs, round_index=1))
    assert (student.path / "student.json").read_text() == (
        played.student.path / "student.json"
    ).read_text()
    held_out = played.make(requests.harvest_held_out(played.params, played.prompts))
    final = played.make(
        requests.evaluate_final(
            played.params, played.prompts, student.ref, played.base.ref, held_out.ref
        )
    )
    summary = json.loads(final.file("summary.json").read_text())
    assert summary["num_failed"] == {"student": 0, "base": 0, "teacher": 0}
    assert summary["metrics"]["frechet_distance"]["difference"] != 0


def test_rollouts_are_proven_to_be_the_behaviours(played: Round):
    inputs = {role: played.store.load(ref) for role, ref in played.update().inputs.items()}
    _, models = update.gather(played.update().params, inputs)
    rolled = played.rollouts.manifest.summary["weights_sha256"]
    assert (
        rolled
        == models.behaviour_sha256()
        == load_student(played.base.path, "student").weights_sha256()
    )
    with torch.no_grad():  # the old adapter that was never synchronised
        next(p for n, p in models.student.named_parameters() if ".behaviour." in n).add_(1e-4)
    with pytest.raises(OffPolicyError, match=r"made by weights.*behaviour student holds"):
        update.refuse_other_weights(played.rollouts, models.behaviour_sha256())
    silent = dict(played.rollouts.manifest.summary)
    del silent["weights_sha256"]
    manifest = played.rollouts.manifest.model_copy(update={"summary": silent})
    with pytest.raises(OffPolicyError, match=r"do not tell which weights made them; roll out"):
        update.refuse_other_weights(replace(played.rollouts, manifest=manifest), rolled)


def test_where_files_lie_and_what_memory_holds_is_no_identity(played: Round, files: Path, tmp_path):
    shutil.copytree(files, tmp_path / "elsewhere")
    moved = params_of(tmp_path / "elsewhere", "update.memory.micro_batch=1")
    asked = requests.warmstart(moved, played.prompts)
    assert asked.output == played.base.ref
    refs = [made.ref for made in (played.rollouts, played.judge, played.base, played.base)]
    clips = [played.clips.ref]
    assert requests.update(moved, clips, *refs, round_index=0).output == played.student.ref
    changed = save_self_forcing(tmp_path / "elsewhere" / "self_forcing.pt")
    state = torch.load(changed, weights_only=True)
    state["generator_ema"]["model._fsdp_wrapped_module.head.head.bias"] += 1
    torch.save(state, changed)
    assert requests.warmstart(moved, played.prompts).output != played.base.ref
    changed.unlink()
    with pytest.raises(RefusedError, match=r"student\.checkpoint: .*Nothing is downloaded"):
        requests.warmstart(moved, played.prompts)


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_a_sliced_batch_has_the_gradient_of_the_whole(
    played: Round, tmp_path: Path, micro_batch: int
):
    asked = played.update()
    sliced = with_memory(asked, micro_batch=micro_batch, gradient_checkpointing=True)
    elsewhere = with_inputs(played.store, asked, tmp_path)
    again = execute(sliced, elsewhere)
    ours, theirs = (load_file(a.file("student.safetensors")) for a in (again, played.student))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=3e-4, rtol=0)


@torch.no_grad()
def test_others_load_what_was_trained(played: Round, files: Path, tmp_path: Path, capsys):
    """The LoRA into stock Wan, and merged weights in both layouts: all of them one network."""
    student = played.student.path
    for kind in ("lora", "original-lora", "diffusers", "original"):
        assert export.main([str(student), str(tmp_path / kind), "--as", kind]) == 0
    assert "load it with strength 1; the original's names" in capsys.readouterr().err
    network = load_student(student, "average").student
    draw = torch.Generator().manual_seed(0)
    given = (torch.randn(1, 16, 5, 2, 2, generator=draw), torch.tensor([700.0]))
    given = (*given, torch.randn(1, 9, TEXT_DIM, generator=draw))
    expected = network(*given, return_dict=False)[0]
    stock = WanTransformer3DModel.from_config(network.config)
    stock.load_state_dict(load_wan(files / "self_forcing.pt", HEAD_DIM).state_dict())
    before = stock(*given, return_dict=False)[0]
    WanPipeline(None, None, None, None, transformer=stock).load_lora_weights(tmp_path / "lora")
    assert (before - expected).abs().max() > 1e-5
    merged = WanTransformer3DModel.from_pretrained(tmp_path / "diffusers")
    original = load_wan(tmp_path / "original" / "model.safetensors", HEAD_DIM)
    theirs = WanTransformer3DModel.from_config(network.config)
    theirs.load_state_dict(original.state_dict())
    for loaded in (stock, merged, theirs):
        found = loaded(*given, return_dict=False)[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    capsys.readouterr()
    assert export.main([str(student), str(tmp_path / "lora")]) == 2
    assert "is not empty; give a new folder" in capsys.readouterr().err


def with_memory(asked: StageRequest, **memory: Any) -> StageRequest:
    """The same update, computed under other circumstances."""
    own = asked.params["update"] | {"memory": memory}
    changed = asked.model_copy(update={"params": asked.params | {"update": own}})
    assert changed.output == asked.output
    return changed


SHARDED = {"shard_blocks": True, "gradient_checkpointing": True, "micro_batch": 1}


@pytest.mark.parametrize("memory", [{}, SHARDED], ids=["whole", "sharded"])
def test_two_ranks_train_the_lora_that_one_process_trains(
    played: Round, forge: Forge, tmp_path: Path, memory: dict[str, Any]
):
    asked = with_memory(played.update(), **memory)
    store = with_inputs(played.store, asked, tmp_path)
    ranks = start(forge, asked, store, 2)
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].log + ranks[1].log
    made = store.load(asked.output)
    for name in ("student.safetensors", "average.safetensors"):
        ours, theirs = load_file(made.file(name)), load_file(played.student.file(name))
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], atol=3e-4, rtol=0)


def test_a_killed_rank_of_a_sharded_update_ends_the_other_and_one_process_goes_on(
    played: Round, forge: Forge, tmp_path: Path
):
    """What is kept does not depend on how many ranks kept it, nor on whether they shared out."""
    asked = with_memory(played.update(), **SHARDED)
    store = with_inputs(played.store, asked, tmp_path)
    ranks = start(forge, asked, store, 2, rank_1={"AFD_FAILPOINT": "update.step:2"})
    assert ranks[1].wait() == -signal.SIGKILL
    assert ranks[0].wait(timeout_s=20) == EXIT_CODE["lost"], ranks[0].log
    assert "another rank is gone" in ranks[0].log
    assert "Traceback" not in ranks[0].log
    again = forge.start(asked, store)
    assert again.wait() == 0, again.log
    assert "resumed from step" in again.log
    ours = load_file(store.load(asked.output).file("student.safetensors"))
    for key, theirs in load_file(played.student.file("student.safetensors")).items():
        torch.testing.assert_close(ours[key], theirs, atol=3e-4, rtol=0)


def test_shares_of_a_sharded_update_must_be_even(played: Round, forge: Forge, tmp_path: Path):
    asked = with_memory(played.update(), shard_blocks=True)
    own = asked.params["update"] | {"batch_size": 3}
    asked = asked.model_copy(update={"params": asked.params | {"update": own}})
    store = with_inputs(played.store, asked, tmp_path)
    ranks = start(forge, asked, store, 2)
    assert [rank.wait() for rank in ranks] == [EXIT_CODE["refused"]] * 2
    assert "a batch of 3 does not divide by 2 ranks" in ranks[0].log


@pytest.mark.parametrize(("may_halve", "fits"), [(True, 2), (False, 2), (True, 0)])
def test_an_update_out_of_memory_halves_once_or_names_the_knobs(
    played: Round,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    may_halve: bool,
    fits: int,
):
    """By the door: what is left is the update of the whole batch, or a refusal."""
    asked = with_memory(played.update(), may_halve=may_halve, micro_batch=4)
    velocity = CausalWan.velocity

    def of_few(self: CausalWan, noisy: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        if len(noisy) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return velocity(self, noisy, *given)

    monkeypatch.setattr(CausalWan, "velocity", of_few)
    store = with_inputs(played.store, asked, tmp_path)
    if may_halve and fits:
        ours = load_file(execute(asked, store).file("student.safetensors"))
        for key, theirs in load_file(played.student.file("student.safetensors")).items():
            torch.testing.assert_close(ours[key], theirs, atol=3e-4, rtol=0)
        return
    with pytest.raises(TooLargeError) as told:
        execute(asked, store)
    assert status_of(told.value) == "refused"
    assert "Set update.memory.micro_batch to" in str(told.value)
    assert "gradient_checkpointing" in str(told.value)


def test_an_update_that_is_not_finite_is_counted_kept_and_stopped(
    played: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, seen = played.update(), list[int]()
    velocity = CausalWan.velocity

    def broken(self: CausalWan, noisy: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        seen.append(len(seen))
        found = velocity(self, noisy, *given)
        return found * float("nan") if len(seen) <= num_broken else found

    num_broken = 1  # of the passes of the first step
    monkeypatch.setattr(CausalWan, "velocity", broken)
    made = execute(asked, with_inputs(played.store, asked, tmp_path / "one"))
    assert made.manifest.summary["num_skipped"] == 1
    weights = load_file(made.file("student.safetensors"))
    assert all(torch.isfinite(value).all() for value in weights.values())
    num_broken, store = 10**6, with_inputs(played.store, asked, tmp_path / "all")
    with pytest.raises(FloatingPointError, match=r"more than update\.max_skipped_steps") as told:
        execute(asked, store)
    assert "lower update.learning_rate or raise update.prior" in str(told.value)
    kept = list(store.work_path(asked.output).rglob("not-finite-step-*.parquet"))
    assert len(kept) == asked.params["update"]["max_skipped_steps"] + 1
    assert "prompt" in pd.read_parquet(kept[0]).columns


def test_starts_do_not_mix_and_do_not_get_lost(played: Round, tmp_path: Path):
    copy = tmp_path / "student_weights" / played.student.path.name
    shutil.copytree(played.student.path, copy)
    with pytest.raises(CheckpointError, match=r"frozen parts belong in .*dvc pull"):
        load_student(copy, "student")
    shutil.copytree(played.base.path, copy.parent / played.base.path.name)
    loaded = load_student(copy, "average")
    text = loaded.encode([played_prompt(played)])
    noise = torch.zeros(1, 2, *loaded.student.geometry.shape(1)[1:])
    from afd.flow.solver import rollout

    assert torch.isfinite(rollout(loaded.student, text, noise, loaded.steps)).all()
    with pytest.raises(TextError, match="were not in the prompt set"):
        loaded.encode(["a prompt that nobody encoded"])
    tensors = load_file(copy / "student.safetensors")
    tensors[sorted(tensors)[0]][0, 0] = float("inf")
    save_file(tensors, copy / "student.safetensors")
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        load_student(copy, "student")


def played_prompt(played: Round) -> str:
    lines = played.store.load(played.prompts).file("prompts.jsonl").read_text().splitlines()
    return str(json.loads(lines[0])["text"])


def test_text_encoder_and_transformer_must_belong_together(files: Path, tmp_path: Path):
    params = params_of(files)
    store = Store(tmp_path)
    prompts = execute(requests.prompts(params), store).ref
    config = files / "text_encoder" / "config.json"
    whole = config.read_text()
    narrow = {"d_model": 8, "d_ff": 16, "num_heads": 3}
    try:
        config.write_text(json.dumps(json.loads(whole) | narrow))
        with pytest.raises((CheckpointError, TextError)):
            execute(requests.warmstart(params, prompts), store)
    finally:
        config.write_text(whole)
    short = params_of(files, "student.num_text_tokens=23")
    with pytest.raises(TextError, match=r"prompt\(s\) exceed 23 tokens"):
        execute(requests.warmstart(short, prompts), store)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_that_is_none_is_refused_at_the_door(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Cut short, with code in it, of another model, with NaN: told by file and reason."""
    whole = torch.load(files / "self_forcing.pt", weights_only=True)
    store, file = Store(tmp_path / "store"), tmp_path / "self_forcing.pt"
    prompts = execute(requests.prompts(params_of(files)), store).ref

    def refused(saved: object, told: str) -> None:
        if isinstance(saved, bytes):
            file.write_bytes(saved)
        else:
            torch.save(saved, file)
        params = params_of(files, f"student.checkpoint={file}")
        asked = tmp_path / "request.json"
        asked.write_text(requests.warmstart(params, prompts).model_dump_json())
        code = main(["warmstart", "--request", str(asked), "--store", str(store.root)])
        said = capsys.readouterr().err
        assert code == EXIT_CODE["refused"], said
        assert str(file) in said and told in said and "Traceback" not in said

    refused((files / "self_forcing.pt").read_bytes()[:-2000], "is damaged or cut short")
    refused({"generator": Evil(tmp_path / "ran")}, "holds code or objects other than tensors")
    assert not (tmp_path / "ran").exists()
    refused({"model": {"conv.weight": torch.zeros(2)}}, "not a Wan transformer")
    state = dict(whole["generator_ema"])
    head = next(name for name in state if name.endswith("head.head.bias"))
    refused({"generator": {name: state[name] for name in state if name != head}}, "missing")
    refused({"generator": state | {head: state[head] * float("nan")}}, "NaN")


def test_what_the_vae_cannot_hold_is_told_with_everything_else(files: Path):
    with pytest.raises(ParamsError) as told:
        params_of(files, "num_frames=16", "frame_size=[24,16]", "student.lora.rank=0")
    text = str(told.value)
    assert "student.lora.rank" in text and "num_frames 16 must be 4k+1" in text
    assert "(24, 16)" in text or "[24, 16]" in text
    with pytest.raises(ParamsError, match=r"multiple of student\.latent_frames_per_block 3"):
        params_of(files, "student.latent_frames_per_block=3")
    with pytest.raises(ParamsError, match="sink_frames 1 needs window_frames"):
        params_of(files, "student.sink_frames=1")
    with pytest.raises(ParamsError, match="may_halve needs shard_blocks false"):
        params_of(files, "update.memory.shard_blocks=true", "update.memory.may_halve=true")
    with pytest.raises(ParamsError, match="shard_blocks needs a published student"):
        load_params(Params, TINY, [], ["update.memory.shard_blocks=true"])
    with pytest.raises(ParamsError, match=r"student\.family: must be one of .*'causal_wan'"):
        params_of(files, "student.family=self_forced")


def test_chunks_in_bfloat16_under_a_window_and_from_the_average(files: Path, tmp_path: Path):
    """The settings of real sizes together; the average rolls out, the student is another."""
    params = params_of(
        files, "num_frames=33", "student.family=causal_forcing", "student.precision=bfloat16",
        "student.latent_frames_per_block=3", "student.window_frames=6", "student.sink_frames=3",
        "rollout.behaviour=average", "update.memory.gradient_checkpointing=true",
    )  # fmt: skip
    played = Round(tmp_path, params)
    assert played.student.manifest.summary["num_skipped"] == 0
    base = load_file(played.base.file("base.safetensors"))
    assert base["blocks.0.attn1.to_q.weight"].dtype == torch.bfloat16
    assert base["condition_embedder.time_proj.weight"].dtype == torch.float32
    weights = load_file(played.student.file("student.safetensors"))
    assert all(value.dtype == torch.float32 for value in weights.values())
    rollouts = played.make(requests.rollout(params, played.prompts, played.student.ref, 1))
    assert (
        rollouts.manifest.summary["weights_sha256"]
        == load_student(played.student.path, "average").weights_sha256()
    )


FAR: dict[str, Any] = {"family": "anyflow_far", "latent_frames_per_block": 1}


def test_the_second_family_rolls_out_and_says_where_it_trains(files: Path, tmp_path: Path):
    save_anyflow_far(files / "far")
    student = params_of(files).student.model_dump(mode="json") | FAR
    student["checkpoint"] = str(files / "far")
    for name in ("weights", "head_dim", "window_frames", "sink_frames", "context_gradient"):
        student.pop(name)
    values = params_of(files).model_dump(mode="json") | {"student": student}
    with pytest.raises(UntrainableError, match="FlexAttention has no backward"):
        Round(tmp_path / "far", Params.model_validate(values))
    assert len(list((tmp_path / "far" / "rollouts").iterdir())) == 1
