"""The path: round trips in float64, and its ends."""

import pytest
import torch
from torch import Generator

from afd.flow import path

SHAPE = (3, 2, 6, 4, 5)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def clean() -> torch.Tensor:
    return drawn(0, *SHAPE)


@pytest.fixture
def noise() -> torch.Tensor:
    return drawn(1, *SHAPE)


@pytest.fixture
def t() -> torch.Tensor:
    times = torch.rand(3, 3, generator=Generator().manual_seed(2), dtype=torch.float64)
    return 0.001 + 0.999 * times


def test_conversions_undo_each_other(clean, noise, t):
    noisy, velocity = path.noisy(clean, noise, t), path.velocity(clean, noise)
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(path.clean_from_velocity(noisy, velocity, t), clean, **close)
    torch.testing.assert_close(
        path.velocity_from_clean(noisy, clean, t), velocity, atol=1e-11, rtol=0
    )
    rebuilt = path.noisy(path.clean_from_velocity(noisy, velocity, t), noise, t)
    torch.testing.assert_close(rebuilt, noisy, **close)


def test_zero_is_clean_and_one_is_noise(clean, noise):
    assert torch.equal(path.noisy(clean, noise, torch.zeros(3, 1).double()), clean)
    assert torch.equal(path.noisy(clean, noise, torch.ones(3, 1).double()), noise)


def test_velocity_is_the_derivative_of_noisy_along_t(clean, noise, t):
    later = path.noisy(clean, noise, t + 1e-6)
    slope = (later - path.noisy(clean, noise, t)) / 1e-6
    torch.testing.assert_close(slope, path.velocity(clean, noise), atol=1e-8, rtol=0)


def test_each_block_has_its_own_time(clean, noise, t):
    noisy = path.noisy(clean, noise, t)
    for sample in range(3):
        for frame in range(6):
            time = t[sample, frame // 2]
            expected = (1 - time) * clean[sample, :, frame] + time * noise[sample, :, frame]
            torch.testing.assert_close(noisy[sample, :, frame], expected, rtol=0, atol=1e-15)


def test_blocks_that_do_not_divide_the_frames_are_refused(clean):
    with pytest.raises(ValueError, match="4 blocks"):
        path.per_block(torch.ones(3, 4), clean)
