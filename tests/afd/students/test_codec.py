"""The pixel codec: exact without a PCA, the best projection with one, and its state on disk."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from afd.students.codec import PatchCodec, fit, load

PATCH = (2, 4, 4)


def clips(num: int = 40, seed: int = 0) -> Tensor:
    """Smooth moving blobs with a few degrees of freedom, plus a little noise, in [0, 1]."""
    generator = Generator().manual_seed(seed)
    place = torch.rand(num, 1, 2, 1, 1, generator=generator) * 8
    speed = torch.rand(num, 1, 2, 1, 1, generator=generator) - 0.5
    centre = place + speed * torch.arange(6)[None, :, None, None, None]
    rows = torch.arange(8)[:, None].expand(8, 12)
    columns = torch.arange(12)[None].expand(8, 12)
    distance = (centre - torch.stack([rows, columns])).square().sum(dim=2, keepdim=True)
    colour = torch.rand(num, 1, 3, 1, 1, generator=generator)
    noise = 0.02 * torch.randn(num, 6, 3, 8, 12, generator=generator)
    return (colour * (-distance / 6).exp() + noise).clamp(0, 1)


def fitted(num_components: int | None, whitening: float = 0.0) -> PatchCodec:
    return fit(clips(), PATCH, num_components, whitening, Generator().manual_seed(1))


def test_without_components_the_round_trip_is_exact():
    codec, given = fitted(None), clips(seed=5)
    latents = codec.encode(given)
    assert latents.shape == (40, 2 * 4 * 4 * 3, 3, 2, 3)
    torch.testing.assert_close(codec.decode(latents), given, atol=1e-6, rtol=0)


def test_one_latent_position_holds_exactly_the_pixels_of_its_own_patch():
    codec, given = fitted(None), clips(seed=5)
    changed = given.clone()
    changed[:, 2:4, :, 4:8, 8:12] += 0.1  # latent frame 1, row 1, column 2
    moved = (codec.encode(changed) - codec.encode(given)).abs().amax(dim=(0, 1)) > 0
    assert moved.nonzero().tolist() == [[1, 1, 2]]


def test_latents_of_the_corpus_have_zero_mean_and_the_stated_variance():
    for codec in (fitted(None), fitted(10), fitted(10, 0.5), fitted(10, 1.0)):
        latents = codec.encode(clips())
        assert latents.mean(dim=(0, 2, 3, 4)).abs().max() < 1e-5
        assert latents.square().mean().item() == pytest.approx(codec.variance, rel=1e-4)


def test_the_basis_is_the_principal_subspace():
    codec = fitted(10)
    assert codec.basis is not None
    torch.testing.assert_close(codec.basis @ codec.basis.T, torch.eye(10), atol=1e-5, rtol=0)
    patches = fitted(None).encode(clips()).movedim(1, -1).flatten(0, -2)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    ratio = codec.encode(clips()).square().mean(dim=(0, 2, 3, 4)) / values.flip(0)[:10]
    torch.testing.assert_close(ratio, torch.ones(10), atol=1e-2, rtol=0)
    overlap = (codec.basis @ vectors[:, -10:]).square().sum()
    assert overlap > 9.9  # of 10: the spaces agree


def test_a_whitened_component_has_unit_variance_and_decodes_alike():
    plain, white = fitted(10), fitted(10, 1.0)
    variance = white.encode(clips()).square().mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(variance, torch.ones(10), atol=1e-3, rtol=0)
    given = clips(seed=5)
    torch.testing.assert_close(
        white.decode(white.encode(given)), plain.decode(plain.encode(given)), atol=1e-4, rtol=0
    )


def test_more_components_lose_less():
    given = clips(seed=5)
    errors = []
    for num_components in (2, 10, 40):
        codec = fitted(num_components)
        errors.append((codec.decode(codec.encode(given)) - given).square().mean().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02**2  # below the noise of the clips


def test_decoding_stays_in_range():
    codec = fitted(10)
    decoded = codec.decode(100 * torch.randn(2, 10, 3, 2, 3, generator=Generator().manual_seed(0)))
    assert decoded.min() == 0 and decoded.max() == 1


def test_state_comes_back_from_safetensors_bit_for_bit(tmp_path):
    for num_components in (None, 10):
        codec, given = fitted(num_components, 0.5), clips(seed=5)
        save_file(codec.state(), tmp_path / "codec.safetensors")
        again = load(load_file(tmp_path / "codec.safetensors"))
        assert torch.equal(again.encode(given), codec.encode(given))
        assert (again.patch, again.variance) == (codec.patch, codec.variance)


def test_fitting_depends_on_its_arguments_alone():
    state = torch.random.get_rng_state()
    first, again = fitted(10), fitted(10)
    assert first.basis is not None and again.basis is not None
    assert torch.equal(first.basis, again.basis)
    assert torch.equal(state, torch.random.get_rng_state())


def test_geometry_follows_the_clips():
    geometry = fitted(10).geometry(clips().shape, latent_frames_per_block=1)
    assert geometry.shape(40) == fitted(10).encode(clips()).shape
    assert geometry.num_blocks == 3


def test_clips_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 8, 12\).*patches of \(2, 4, 4\)"):
        fitted(None).encode(clips()[:, :5])
    with pytest.raises(ValueError, match="num_components is 97"):
        fitted(97)
