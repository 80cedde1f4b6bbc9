"""The reverse-chain loss against torch's own Gaussian and against a known policy gradient."""

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import Normal

from afd.flow import path
from afd.losses.reverse_chain import log_density, reverse_chain_loss

SHAPE, BLOCKS = (4, 3, 6, 2, 2), 3


def drawn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=Generator().manual_seed(seed), dtype=torch.float64)


def times(seed: int) -> tuple[Tensor, Tensor]:
    t = 0.3 + 0.7 * torch.rand(
        SHAPE[0], BLOCKS, generator=Generator().manual_seed(seed), dtype=torch.float64
    )
    return t, 0.6 * t


def test_density_is_torchs_gaussian_but_for_a_shared_constant():
    (t, next_t), noisy, following, velocity = times(0), drawn(1), drawn(2), drawn(3)
    ours = log_density(velocity, noisy, following, t, next_t)
    time, later = path.per_block(t, noisy), path.per_block(next_t, noisy)
    mean = (1 - later) * (noisy - time * velocity)
    density = Normal(mean, later.expand_as(mean)).log_prob(following)
    theirs = density.unflatten(2, (BLOCKS, -1)).mean(dim=(1, 3, 4, 5))
    constant = -next_t.log() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(ours + constant, theirs)


def test_at_the_behaviour_student_the_gradient_is_the_policy_gradient():
    """ratio 1: d loss = -mean_b A d log p, the plain score-function estimator."""
    (t, next_t), noisy, following = times(4), drawn(5), drawn(6)
    behaviour, advantage = drawn(7), torch.tensor([1.0, -2.0, 0.5, 0.0]).double()
    student = behaviour.clone().requires_grad_()
    arguments = {"noisy": noisy, "next_noisy": following, "t": t, "next_t": next_t}
    loss, metrics = reverse_chain_loss(
        student, behaviour, advantage=advantage, clip=0.2, **arguments
    )
    (found,) = torch.autograd.grad(loss, student)
    plain = -(advantage[:, None] * log_density(student, *arguments.values())).mean()
    (expected,) = torch.autograd.grad(plain, student)
    torch.testing.assert_close(found, expected)
    assert metrics["ratio_spread"] == 0 and metrics["clipped_share"] == 0


def test_a_ratio_beyond_the_clip_pulls_no_further_and_back_it_does():
    t, next_t = torch.ones(2, 1), torch.full((2, 1), 0.5)
    noisy = following = torch.zeros(2, 1, 1, 1, 1)
    behaviour = torch.tensor([4.0, 4.0]).view(2, 1, 1, 1, 1)
    student = torch.zeros_like(behaviour).requires_grad_()  # far likelier than the behaviour
    loss, metrics = reverse_chain_loss(
        student, behaviour, noisy=noisy, next_noisy=following, t=t, next_t=next_t,
        advantage=torch.tensor([1.0, -1.0]), clip=0.1,
    )  # fmt: skip
    # residual 4 against 0 at t' = .5: ratio exp(8), its gain capped at 1.1, its loss not at all
    torch.testing.assert_close(loss, torch.tensor((-1.1 + math.exp(8)) / 2))
    assert metrics["clipped_share"] == 1


@pytest.mark.parametrize("clip", [0.0, 1.0, -0.1])
def test_refuses_a_clip_that_is_none(clip: float):
    (t, next_t), noisy = times(8), drawn(9)
    with pytest.raises(ValueError, match="clip"):
        reverse_chain_loss(
            noisy, noisy, noisy=noisy, next_noisy=noisy, t=t, next_t=next_t,
            advantage=torch.zeros(4), clip=clip,
        )  # fmt: skip


def test_refuses_the_last_step():
    (t, _), noisy = times(8), drawn(9)
    with pytest.raises(ValueError, match="last step"):
        reverse_chain_loss(
            noisy, noisy, noisy=noisy, next_noisy=noisy, t=t, next_t=torch.zeros_like(t),
            advantage=torch.zeros(4), clip=0.1,
        )  # fmt: skip
