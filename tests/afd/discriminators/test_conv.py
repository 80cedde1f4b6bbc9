"""The conv discriminator: what it may see, what it must not, and that it learns what it should."""

from collections.abc import Sequence

import pytest
import torch
from torch import Generator, Tensor

from afd.config import ConvDiscriminator as ConvParams
from afd.discriminators.conv import ConvDiscriminator, build, pooled
from afd.discriminators.discriminator import Setting
from afd.losses.adversarial import bradley_terry, r1_penalty

FRAMES, SIZE, TEXT = 8, 16, 6


def params(**changes: object) -> ConvParams:
    plain = {"low": 1.0, "high": 1.0}
    known = {
        "kind": "conv",
        "width": 16,
        "noise": 0.0,
        "contrast": plain,
        "brightness": {"low": 0.0, "high": 0.0},
        "normalise": False,
        "num_passes": 1,
    }
    return ConvParams.model_validate(known | changes)


def discriminator(**changes: object) -> ConvDiscriminator:
    setting = Setting(FRAMES, SIZE, TEXT)
    return build(params(**changes), setting, no_encoder, Generator().manual_seed(0))


def no_encoder(prompts: Sequence[str]) -> Tensor:
    raise AssertionError("these tests make their own text")


def drawn(seed: int, num: int = 6) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(seed)
    clips = torch.rand(num, FRAMES, 3, SIZE, SIZE, generator=generator)
    return clips, torch.randn(num, 4, TEXT, generator=generator)


def test_a_score_sees_the_order_of_frames_and_the_prompt():
    model, (clips, text) = discriminator(), drawn(1)
    score = model.score(clips, text, Generator().manual_seed(0))
    backwards = model.score(clips.flip(1), text, Generator().manual_seed(0))
    elsewhere = model.score(clips, text.flip(0), Generator().manual_seed(0))
    assert score.shape == (6,)
    assert (score - backwards).abs().min() > 1e-4 and (score - elsewhere).abs().min() > 1e-4


def test_standardising_hides_contrast_and_brightness():
    model, (clips, text) = discriminator(normalise=True), drawn(1)
    dimmed = 0.6 * clips + 0.15
    score = model.score(clips, text, Generator().manual_seed(0))
    torch.testing.assert_close(
        model.score(dimmed, text, Generator().manual_seed(0)), score, atol=2e-2, rtol=0
    )
    raw = discriminator()
    gap = raw.score(dimmed, text, Generator()) - raw.score(clips, text, Generator())
    assert gap.abs().mean() > 5e-2


def test_an_empty_clip_is_finite():
    model = discriminator(normalise=True)
    _, text = drawn(1)
    clips = torch.zeros(6, FRAMES, 3, SIZE, SIZE, requires_grad=True)
    score = model.score(clips, text, Generator().manual_seed(0))
    score.sum().backward()
    assert score.isfinite().all() and clips.grad is not None and clips.grad.isfinite().all()


def test_noise_averages_out_over_passes():
    clips, text = drawn(1)
    spreads = []
    for num_passes in (1, 16):
        model = discriminator(noise=0.5, num_passes=num_passes)
        scores = [model.score(clips, text, Generator().manual_seed(seed)) for seed in range(40)]
        spreads.append(torch.stack(scores).std(0).mean())
    assert spreads[0] > 0 and 2.5 < spreads[0] / spreads[1] < 6  # 4, the square root of 16


def test_noise_comes_from_the_generator_alone():
    model, (clips, text) = discriminator(noise=0.5, num_passes=2), drawn(1)
    state = torch.random.get_rng_state()
    first = model.score(clips, text, Generator().manual_seed(3))
    again = model.score(clips, text, Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert not torch.equal(first, model.score(clips, text, Generator().manual_seed(4)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_padding_does_not_dilute_the_prompt():
    _, text = drawn(1)
    padded = torch.cat([text, torch.zeros(6, 9, TEXT)], dim=1)
    torch.testing.assert_close(pooled(padded), text.mean(dim=1))
    assert (pooled(torch.zeros(2, 3, TEXT)) == 0).all()


def moving(velocity: Tensor, seed: int) -> Tensor:
    """Bright bars that move by `velocity` pixels a frame, from a random start."""
    start = torch.rand(len(velocity), 1, generator=Generator().manual_seed(seed)) * SIZE
    place = (start + velocity[:, None] * torch.arange(FRAMES)) % SIZE
    bar = (-(torch.arange(SIZE) - place[..., None]).square() / 4).exp()
    return bar[:, :, None, None, :].expand(-1, -1, 3, SIZE, -1)


def test_it_learns_motion_under_a_prompt_in_a_few_steps():
    """The teacher obeys its prompt (left or right), the student does the opposite."""
    model = discriminator(noise=0.2, width=24)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.5, 0.99))
    generator = Generator().manual_seed(0)
    words = torch.randn(2, 1, TEXT, generator=generator)
    for step in range(60):
        side = torch.randint(2, (32,), generator=generator)
        way = (2.0 * side - 1) * 1.5
        teacher = moving(way, 2 * step).clone().requires_grad_()
        scores = model(teacher, words[side], generator)
        loss, _ = bradley_terry(scores, model(moving(-way, 2 * step + 1), words[side], generator))
        optimiser.zero_grad()
        (loss + 0.01 * r1_penalty(scores, teacher)).backward()
        optimiser.step()
    side = torch.randint(2, (200,), generator=generator)
    way = (2.0 * side - 1) * 1.5
    with torch.no_grad():
        teacher = model.score(moving(way, 1001), words[side], generator)
        student = model.score(moving(-way, 1002), words[side], generator)
    assert (teacher > student).float().mean() > 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fresh_discriminator_depends_on_its_generator_alone(seed: int):
    torch.manual_seed(seed)
    state = discriminator().state_dict()
    torch.manual_seed(seed + 1)
    assert all(
        torch.equal(state[name], value) for name, value in discriminator().state_dict().items()
    )
