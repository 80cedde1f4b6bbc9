"""Wan's VAE as a codec: against diffusers' own calls, piece by piece, and what it refuses."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from afd.students.strict_loading import CheckpointError
from afd.students.vae import WanCodec, load, load_published
from tests.afd.students.tiny_parts import tiny_vae


@pytest.fixture(scope="module")
def codec() -> WanCodec:
    return WanCodec(tiny_vae())


def clips(frames: int = 9) -> Tensor:
    return torch.rand(2, frames, 3, 16, 24, generator=Generator().manual_seed(0))


@torch.no_grad()
def test_it_is_diffusers_vae_with_normalised_latents(codec: WanCodec):
    given, config = clips(), codec.vae.config
    latents = codec.encode(given)
    mean, std = (
        torch.tensor(v).reshape(1, 16, 1, 1, 1) for v in (config.latents_mean, config.latents_std)
    )
    theirs = codec.vae.encode(given.movedim(1, 2) * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(latents * std + mean, theirs, atol=1e-5, rtol=0)
    assert latents.shape == (2, *codec.geometry(given.shape, 1).shape(1)[1:]) == (2, 16, 3, 2, 3)
    decoded = codec.vae.decode(latents * std + mean).sample.movedim(2, 1)
    torch.testing.assert_close(codec.decode(latents), (decoded + 1) / 2, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1, 1, 1], [1, 2], [2, 1], [3]])
def test_piece_by_piece_is_the_whole(codec: WanCodec, sizes: list[int]):
    latents = torch.randn(2, 16, 3, 2, 3, generator=Generator().manual_seed(1))
    stream = codec.streaming_decoder()
    pieces = [stream(part) for part in latents.split(sizes, dim=2)]
    assert pieces[0].shape[1] == 4 * sizes[0] - 3  # the first latent frame is one picture
    assert (torch.cat(pieces, dim=1) - codec.decode(latents)).abs().max() < 1e-6


def test_a_gradient_passes_through_decoding(codec: WanCodec):
    latents = torch.zeros(1, 16, 2, 2, 2, requires_grad=True)
    codec.decode(latents).square().sum().backward()
    assert latents.grad is not None and latents.grad.abs().min() > 0


def test_sizes_that_would_be_cut_silently_are_refused(codec: WanCodec):
    assert codec.vae.encode(torch.zeros(1, 3, 12, 16, 16)).latent_dist.mode().shape[2] == 3
    with pytest.raises(ValueError, match=r"frames are 12: must be 4k \+ 1"):
        codec.encode(clips(12))
    with pytest.raises(ValueError, match=r"frames are 8.*rows are 12.*columns are 20"):
        codec.encode(torch.zeros(1, 8, 3, 12, 20))


def test_it_comes_back_from_both_kinds_of_folder(codec: WanCodec, tmp_path: Path):
    codec.save(tmp_path)
    codec.vae.save_pretrained(tmp_path / "vae")
    latents = torch.randn(1, 16, 2, 2, 2, generator=Generator().manual_seed(2))
    for loaded in (load(tmp_path), load_published(tmp_path)):
        assert torch.equal(loaded.decode(latents), codec.decode(latents))


def test_a_damaged_or_other_vae_is_named(codec: WanCodec, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"holds no VAE.*nothing is downloaded"):
        load_published(tmp_path)
    codec.vae.save_pretrained(tmp_path / "vae")
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("post_quant_conv.bias")
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"missing post_quant_conv\.bias"):
        load_published(tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="holds no VAE that loads"):
        load_published(tmp_path)
