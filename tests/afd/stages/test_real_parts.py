"""A whole round with nothing but real parts, tiny and random, each read as people download it.

Student: Self-Forcing's .pt as causal Wan with a LoRA, AutoencoderKLWan, UMT5. Discriminator: a
Qwen2-VL with LoRA and score head. Teacher: a folder of diffusers' WanPipeline. Every stage by the
door; fit and update on two ranks as well, against one process.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from afd.artifacts import Artifact
from afd.config import Params
from afd.params import load_params
from afd.runtime.request import StageRequest
from afd.stages import requests
from afd.stages.execute import execute
from afd.store import Store
from tests.afd.discriminators import tiny_qwen
from tests.afd.stages.conftest import Forge, with_inputs
from tests.afd.stages.test_large_discriminators import VLM
from tests.afd.stages.test_published import OVERLAY, TINY
from tests.afd.stages.test_ranks import curves, start
from tests.afd.students.tiny_parts import save_components, save_self_forcing
from tests.afd.teachers import tiny_pipeline

# Two ranks sum in another order, by 1e-7, and Adam divides by roots of second moments that are near
# nothing after two steps. Of the furthest Adam moves a weight (steps x learning rate), measured:
# fit 0.014, update 0.0008. Gradients alone are held at 1e-6 in double precision (test_ranks.py).
TOLERANCE = 0.05
WEIGHTS = {"fit": "discriminator.safetensors", "update": "student.safetensors"}
FEW = (
    "num_rounds=1",
    "fit.num_steps=2",
    "fit.warmup_steps=0",
    "fit.batch_size=4",
    "update.num_steps=2",
    "evaluate.num_prompts=2",
    "evaluate.noise_seeds=[1]",
    "prompts.num_held_out=2",
)


def params_of(folder: Path) -> Params:
    """Every part from a file or folder below `folder`."""
    save_self_forcing(save_components(folder) / "self_forcing.pt")
    teacher = {
        "kind": "diffusers",
        "pipeline": str(tiny_pipeline.save(folder / "teacher")),
        "parameters": {"num_inference_steps": 2, "guidance_scale": 3.0, "max_sequence_length": 200},
        "dtype": "float32",
        "size": {"width": 64, "height": 64},
        "num_frames": 17,
        "fps": 16,
        "max_prompt_tokens": 200,
        "clips_per_prompt": 1,
        "training_permitted": "yes",
        "terms": {"url": "https://example.org/licence", "date": "2026-11-23"},
    }
    files = (
        f"student.checkpoint={folder / 'self_forcing.pt'}",
        f"student.components={folder}",
    )
    values = load_params(Params, TINY, [OVERLAY], [*files, *FEW]).model_dump(mode="json")
    judge = VLM | {"backbone": str(tiny_qwen.save(folder / "qwen"))}
    return Params.model_validate(values | {"teacher": teacher, "discriminator": judge})


class Played:
    """The round, in this process."""

    def __init__(self, root: Path, params: Params) -> None:
        self.store, self.params = Store(root), params
        self.prompts = self.make(requests.prompts(params)).ref
        self.base = self.make(requests.warmstart(params, self.prompts))
        self.clips = self.make(requests.harvest_round(params, self.prompts, 0))
        self.rollouts = self.make(requests.rollout(params, self.prompts, self.base.ref, 0))
        self.fit = requests.fit(params, [self.clips.ref], [self.rollouts.ref], None, 0)
        self.judge = self.make(self.fit)
        refs = [made.ref for made in (self.rollouts, self.judge, self.base, self.base)]
        self.update = requests.update(params, [self.clips.ref], *refs, round_index=0)
        self.student = self.make(self.update)

    def make(self, asked: StageRequest) -> Artifact:
        return execute(asked, self.store)

    def reach(self, stage: str) -> float:
        """How far Adam moves a weight in this stage at most."""
        fit, update = self.params.fit, self.params.update
        if stage == "fit":
            return fit.num_steps * fit.learning_rate
        return update.num_steps * update.learning_rate.high


def furthest(one: Artifact, other: Artifact) -> float:
    """The largest difference of any trained weight."""
    name = WEIGHTS[one.manifest.stage]
    ours, theirs = load_file(one.file(name)), load_file(other.file(name))
    assert ours.keys() == theirs.keys()
    return max((ours[key] - theirs[key]).abs().max().item() for key in ours)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    root = tmp_path_factory.mktemp("real")
    return Played(root / "store", params_of(root / "weights"))


def test_every_player_has_learned_and_is_judged(played: Played) -> None:
    assert played.clips.manifest.summary["num_clips"] == played.params.rollout.num_prompts
    assert played.rollouts.manifest.summary["num_rollouts"] == 6
    judge = load_file(played.judge.file("discriminator.safetensors"))
    assert any(".lora_" in name and value.abs().max() > 0 for name, value in judge.items())
    assert played.student.manifest.summary["group_spread"] > 0
    assert played.student.manifest.summary["num_skipped"] == 0
    for name, before in load_file(played.base.file("student.safetensors")).items():
        after = load_file(played.student.file("student.safetensors"))[name]
        assert not torch.equal(before, after), f"{name} has not learned"
    held_out = played.make(requests.harvest_held_out(played.params, played.prompts))
    judged = played.make(
        requests.evaluate_final(
            played.params, played.prompts, played.student.ref, played.base.ref, held_out.ref
        )
    )
    summary = json.loads(judged.file("summary.json").read_text())
    assert summary["num_failed"] == {"student": 0, "base": 0, "teacher": 0}
    assert summary["metrics"]["frechet_distance"]["difference"] != 0
    keep = played.params.evaluate.model_copy(update={"guidance": 3.0})
    guided = played.params.model_copy(update={"evaluate": keep})
    again = played.make(
        requests.evaluate_final(
            guided, played.prompts, played.student.ref, played.base.ref, held_out.ref
        )
    )
    assert json.loads(again.file("card.json").read_text())["guidance"] == 3.0
    measured = json.loads(again.file("summary.json").read_text())["metrics"]
    assert (
        measured["frechet_distance"]["student"] != summary["metrics"]["frechet_distance"]["student"]
    )


@pytest.mark.parametrize("stage", ["fit", "update"])
def test_two_ranks_leave_what_one_process_leaves(
    played: Played, forge: Forge, tmp_path: Path, stage: str
) -> None:
    asked: StageRequest = getattr(played, stage)
    store = with_inputs(played.store, asked, tmp_path)
    ranks = start(forge, asked, store, 2)
    assert [rank.wait() for rank in ranks] == [0, 0], ranks[0].log
    made, whole = store.load(asked.output), played.store.load(asked.output)
    apart, moved = furthest(made, whole), played.reach(stage)
    assert 0 < apart < TOLERANCE * moved, f"{stage}: {apart / moved:.2g} of what Adam moves"
    for ours, theirs in zip(curves(made), curves(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
