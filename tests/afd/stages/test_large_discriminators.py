"""Fit and update with discriminators on large backbones, in the tiny campaign, by real stages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from afd.artifacts import Artifact
from afd.config import Params
from afd.discriminators.conv import ConvDiscriminator
from afd.params import load_params
from afd.runtime.request import StageRequest
from afd.stages import requests
from afd.stages.execute import execute
from afd.store import Store
from tests.afd.discriminators import tiny_qwen, tiny_wan

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
VLM: dict[str, Any] = {
    "kind": "vlm",
    "reward": None,
    "dtype": "float32",
    "penalty_step": 0.05,
    "micro_batch": 3,
    "gradient_checkpointing": True,
    "question": "How good is {prompt}? <|MQ_reward|>",
    "reward_tokens": ["<|MQ_reward|>"],
    "num_text_tokens": 200,
    "num_frames": 4,
    "frame_pixels": 256,
    "lora_rank": 2,
    "lora_alpha": 4.0,
}
DIT: dict[str, Any] = {
    "kind": "dit_features",
    "dtype": "float32",
    "penalty_step": 0.05,
    "micro_batch": 3,
    "gradient_checkpointing": False,
    "layers": [0, 1],
    "times": [0.0, 0.3],
    "head_width": 8,
}
FEW = ("fit.num_steps=1", "fit.warmup_steps=1", "fit.batch_size=4", "update.num_steps=1")
# Wan's VAE wants 4k+1 frames, and its transformer the student's own text.
FOR_WAN = ("num_frames=17", "student.codec.frames=1", f"student.text_dim={tiny_wan.TEXT_DIM}")


class Played:
    """A tiny campaign up to its first rollouts; fits are cheap from there."""

    def __init__(self, root: Path, overrides: tuple[str, ...] = ()) -> None:
        self.store = Store(root)
        self.params = load_params(Params, TINY, (), (*FEW, *overrides))
        self.prompt_set = self.make(requests.prompts(self.params))
        base = self.prompt_set.ref
        self.student = self.make(requests.warmstart(self.params, base))
        self.clips = self.make(requests.harvest_round(self.params, base, 0))
        self.rollouts = self.make(requests.rollout(self.params, base, self.student.ref, 0))

    def make(self, asked: StageRequest) -> Artifact:
        return execute(asked, self.store)

    def with_judge(self, values: dict[str, Any]) -> Params:
        whole = self.params.model_dump(mode="json") | {"discriminator": values}
        return Params.model_validate(whole)

    def fit(self, of: Params, index: int = 0, before: Artifact | None = None) -> Artifact:
        clips, rollouts = [self.clips.ref], [self.rollouts.ref]
        previous = before.ref if before else None
        return self.make(requests.fit(of, clips, rollouts, previous, index))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return VLM | {"backbone": str(tiny_qwen.save(tmp_path_factory.mktemp("qwen")))}


def update(played: Played, of: Params, judge: Artifact) -> Artifact:
    student = played.student.ref
    return played.make(
        requests.update(of, [played.clips.ref], played.rollouts.ref, judge.ref, student, student, 0)
    )


def test_a_round_with_a_vlm_goes_on_from_its_own_weights(
    played: Played, qwen: dict[str, Any]
) -> None:
    of = played.with_judge(qwen)
    first = played.fit(of)
    second = played.fit(of, 1, first)
    updated = update(played, of, second)
    assert updated.manifest.summary["group_spread"] > 0
    weights = [load_file(f.file("discriminator.safetensors")) for f in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    assert all("lora_" in k or "head" in k or "rewards" in k for k in weights[0])
    moved = [k for k, v in weights[0].items() if not torch.equal(v, weights[1][k])]
    assert any("lora_A" in k for k in moved) and any("head" in k for k in moved)


def test_micro_batches_are_one_batch(played: Played, qwen: dict[str, Any]) -> None:
    fits = [played.fit(played.with_judge(qwen | {"micro_batch": size})) for size in (1, 4)]
    one, other = (load_file(f.file("discriminator.safetensors")) for f in fits)
    for name, value in one.items():
        if name.startswith("discriminator/"):
            torch.testing.assert_close(value, other[name], atol=2e-5, rtol=1e-3, msg=name)


def test_a_round_with_heads_on_a_frozen_wan(tmp_path: Path) -> None:
    played = Played(tmp_path / "store", FOR_WAN)
    of = played.with_judge(DIT | {"backbone": str(tiny_wan.save(tmp_path / "wan"))})
    judge = played.fit(of)
    updated = update(played, of, judge)
    assert updated.manifest.summary["group_spread"] > 0
    assert judge.manifest.params["content"]["discriminator.backbone"]


def test_a_step_that_is_not_finite_is_skipped_counted_and_kept(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A discriminator that answers NaN at its first training pass, and at every one."""
    whole, forward, calls = played.params.model_dump(mode="json"), ConvDiscriminator.forward, [0]
    whole["fit"] |= {"max_skipped_steps": 1, "num_steps": 3}
    of = Params.model_validate(whole)

    def once(self: ConvDiscriminator, *inputs: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return forward(self, *inputs) * (float("nan") if calls[0] == 1 else 1.0)

    monkeypatch.setattr(ConvDiscriminator, "forward", once)
    made = played.fit(of)
    assert made.manifest.summary["num_skipped"] == 1
    weights = load_file(made.file("discriminator.safetensors"))
    assert all(value.isfinite().all() for value in weights.values())

    always = lambda self, *inputs: forward(self, *inputs) * float("nan")  # noqa: E731
    monkeypatch.setattr(ConvDiscriminator, "forward", always)
    whole["seed"] = 2
    asked = Params.model_validate(whole)
    ref = requests.fit(asked, [played.clips.ref], [played.rollouts.ref], None, 0).output
    with pytest.raises(FloatingPointError, match=r"more than fit\.max_skipped_steps \(1\)"):
        played.fit(asked)
    kept = list(played.store.work_path(ref).rglob("not-finite-step-*.safetensors"))
    assert len(kept) == 2 and load_file(kept[0]).keys() == {"teacher", "student", "text"}
