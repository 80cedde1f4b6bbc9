"""Distribution matching: its gradient by hand, and a Gaussian student that finds its teacher."""

import torch
from torch import Generator, Tensor

from afd.flow import path
from afd.losses.distribution_matching import distribution_matching_loss


def gaussian_velocity(noisy: Tensor, t: Tensor, mean: float, spread: float) -> Tensor:
    """E[noise - clean | noisy] where clean ~ N(mean, spread^2): the white box, analytically."""
    time = path.per_block(t, noisy)
    variance = (1 - time) ** 2 * spread**2 + time**2
    excess = noisy - (1 - time) * mean
    noise = time * excess / variance
    clean = mean + (1 - time) * spread**2 * excess / variance
    return noise - clean


def test_the_gradient_is_the_difference_of_clean_guesses():
    draw = Generator().manual_seed(0)
    noisy, teacher, critic = torch.randn(3, 2, 1, 4, 1, 1, generator=draw).double()
    sample = torch.randn(2, 1, 4, 1, 1, generator=draw).double().requires_grad_()
    t = torch.tensor([[0.3, 0.8], [0.5, 0.9]]).double()
    loss, _ = distribution_matching_loss(sample, teacher, critic, noisy=noisy, t=t)
    (found,) = torch.autograd.grad(loss, sample)
    towards = path.clean_from_velocity(noisy, teacher, t)
    away = path.clean_from_velocity(noisy, critic, t)
    for row in range(2):
        for block in range(2):
            here = slice(2 * block, 2 * block + 2)
            size = (sample - towards)[row, :, here].abs().mean()
            expected = (away - towards)[row, :, here] / size / sample.numel()
            torch.testing.assert_close(found[row, :, here], expected)


def test_a_gaussian_student_finds_its_teacher():
    """Student N(m, 1) with the exact critic descends to the teacher's mean."""
    draw = Generator().manual_seed(1)
    mean = torch.tensor(-2.0, requires_grad=True)
    optimiser = torch.optim.SGD([mean], lr=0.3)
    for _ in range(200):
        sample = mean + torch.randn(256, 1, 1, 1, 1, generator=draw)
        noise = torch.randn(sample.shape, generator=draw)
        t = 0.02 + 0.96 * torch.rand(256, 1, generator=draw)
        noisy = path.noisy(sample.detach(), noise, t)
        loss, _ = distribution_matching_loss(
            sample,
            gaussian_velocity(noisy, t, 1.5, 1.0),
            gaussian_velocity(noisy, t, mean.item(), 1.0),
            noisy=noisy,
            t=t,
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert abs(mean.item() - 1.5) < 0.05
