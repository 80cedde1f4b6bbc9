"""Heads on a tiny frozen Wan saved by the real classes: against stock Wan and its VAE."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Generator, Tensor

from afd.config import DitFeaturesDiscriminator
from afd.discriminators import checkpoint
from afd.discriminators.backbones import BackboneError
from afd.discriminators.build import build
from afd.discriminators.discriminator import Setting
from afd.discriminators.dit_features import DitFeatures
from afd.losses.adversarial import bradley_terry, r1_penalty
from afd.runtime.training_state import Training
from afd.text.word_vectors import encode
from tests.afd.discriminators import tiny_wan

SETTING = Setting(num_frames=9, frame_size=32, text_dim=tiny_wan.TEXT_DIM)
PROMPTS = ["a red ball", "two balls"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan.save(tmp_path_factory.mktemp("wan"))


def words(prompts: Sequence[str]) -> Tensor:
    return encode(prompts, 6, tiny_wan.TEXT_DIM)


def fresh(folder: Path, seed: int = 0, setting: Setting = SETTING, **changes: Any) -> DitFeatures:
    values = {
        "kind": "dit_features",
        "backbone": str(folder),
        "dtype": "float32",
        "penalty_step": None,
        "micro_batch": 2,
        "gradient_checkpointing": False,
        "layers": [0, 1],
        "times": [0.0, 0.3],
        "head_width": 16,
    }
    params = DitFeaturesDiscriminator.model_validate(values | changes)
    made = build(params, setting, words, Generator().manual_seed(seed))
    assert isinstance(made, DitFeatures)
    return made


def clips(seed: int = 0) -> Tensor:
    return torch.rand(2, 9, 3, 32, 32, generator=Generator().manual_seed(seed))


def test_features_are_those_inside_stock_wan(folder: Path) -> None:
    judge = fresh(folder)
    stock = WanTransformer3DModel.from_pretrained(folder / "transformer", local_files_only=True)
    inside: list[Tensor] = []
    for number in judge.params.layers:
        stock.blocks[number].register_forward_hook(lambda *seen: inside.append(seen[2]))
    latents, text = judge.see(clips()), judge.read(PROMPTS)
    timestep = torch.tensor([300.0, 300.0])
    with torch.no_grad():
        stock(latents, timestep, text)
        taken = judge.features(latents, timestep, text)
    assert len(judge.wan.blocks) == 2  # what is not read is not kept
    for wanted, found in zip(inside, taken, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_latents_are_the_vaes_own(folder: Path) -> None:
    """What see gives, brought back, decodes as the VAE's own encoding does."""
    judge = fresh(folder)
    vae = AutoencoderKLWan.from_pretrained(folder / "vae", local_files_only=True)
    with torch.no_grad():
        own = vae.encode(2 * clips().movedim(1, 2) - 1).latent_dist.mode()
    latents = judge.see(clips())
    assert latents.shape == (2, 16, 3, 4, 4)
    mean, deviation = (
        torch.tensor(v).view(1, -1, 1, 1, 1)
        for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    torch.testing.assert_close(latents * deviation + mean, own, atol=1e-5, rtol=0)


def test_a_score_is_its_seed_alone(folder: Path) -> None:
    judge = fresh(folder)
    latents, text = judge.see(clips()), judge.read(PROMPTS)
    state = torch.random.get_rng_state()

    def score(seed: int, times: Sequence[float] = ()) -> Tensor:
        return judge.score(latents, text, Generator().manual_seed(seed))

    assert torch.equal(score(1), score(1)) and not torch.equal(score(1), score(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(score(1), fresh(folder).score(latents, text, Generator().manual_seed(1)))
    clean = fresh(folder, times=[0.0])
    assert torch.equal(*(clean.score(latents, text, Generator().manual_seed(s)) for s in (1, 2)))
    swapped = clean.score(latents, text.flip(0), Generator())
    assert not torch.equal(swapped, clean.score(latents, text, Generator()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_learns_pairs_and_goes_on_from_disk(
    folder: Path, tmp_path: Path, checkpointing: bool
) -> None:
    judge = fresh(folder, gradient_checkpointing=checkpointing, times=[0.0, 0.05])
    before = {name: p.clone() for name, p in judge.wan.named_parameters()}
    optimiser = torch.optim.AdamW([p for p in judge.parameters() if p.requires_grad], lr=2e-2)
    training = Training("discriminator", {"discriminator": judge}, optimiser)
    ramp = torch.linspace(0.1, 0.9, 9)[None, :, None, None, None]
    teacher = judge.see((ramp + 0.1 * clips(1)).clamp(0, 1))
    student = judge.see((ramp.flip(1) + 0.1 * clips(2)).clamp(0, 1))
    text, draw = judge.read(PROMPTS), Generator().manual_seed(3)
    for _ in range(20):
        seen = teacher.clone().requires_grad_()
        scores = judge(seen, text, draw)
        loss, _ = bradley_terry(scores, judge(student, text, draw))
        optimiser.zero_grad()
        (loss + 1e-3 * r1_penalty(scores, seen)).backward()
        optimiser.step()
    margin = judge.score(teacher, text, draw) - judge.score(student, text, draw)
    assert margin.min() > 0.1
    assert all(torch.equal(p, before[name]) for name, p in judge.wan.named_parameters())
    checkpoint.save(tmp_path, judge.params, SETTING, training.tensors())
    held = load_file(tmp_path / "discriminator.safetensors")
    assert all(k.startswith(("discriminator/heads.", "optimiser/heads.")) for k in held)
    again = checkpoint.load(tmp_path, words)
    same = [m.score(teacher, text, Generator().manual_seed(4)) for m in (again, judge)]
    assert torch.equal(*same)


def test_a_wan_that_does_not_fit_is_refused_with_all_reasons(folder: Path) -> None:
    other = Setting(num_frames=9, frame_size=32, text_dim=64)
    with pytest.raises(BackboneError) as told:
        fresh(folder, setting=other, layers=[1, 7])
    assert "the last block is 2" in str(told.value) and "text_dim 20" in str(told.value)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    with pytest.raises(BackboneError, match=r"holds no transformer/config\.json") as told:
        fresh(tmp_path)
    assert "Nothing is downloaded" in str(told.value)
