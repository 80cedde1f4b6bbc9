"""Discriminator losses against their formulas, and R1 against a discriminator of known slope."""

import math

import torch
from torch import Generator

from afd.losses.adversarial import (
    binary_cross_entropy,
    bradley_terry,
    generator_loss,
    r1_penalty,
)


def test_bradley_terry_by_hand():
    teacher, student = torch.tensor([2.0, -1.0]).double(), torch.tensor([0.5, 0.0]).double()
    loss, metrics = bradley_terry(teacher, student)
    by_hand = -(math.log(1 / (1 + math.exp(-1.5))) + math.log(1 / (1 + math.exp(1.0)))) / 2
    assert abs(loss.item() - by_hand) < 1e-12
    assert metrics["pair_accuracy"] == 0.5 and metrics["margin"] == 0.25


def test_bradley_terry_ignores_what_belongs_to_the_prompt():
    generator = Generator().manual_seed(0)
    teacher, student, prompt = torch.randn(3, 8, generator=generator).double()
    loss, _ = bradley_terry(teacher, student)
    shifted, _ = bradley_terry(teacher + prompt, student + prompt)
    torch.testing.assert_close(loss, shifted)


def test_bradley_terry_is_finite_and_pulls_at_any_margin():
    teacher = torch.tensor([-1e4, 0.0, 1e4], requires_grad=True)
    loss, _ = bradley_terry(teacher, torch.zeros(3))
    loss.backward()
    assert loss.isfinite() and teacher.grad is not None
    torch.testing.assert_close(teacher.grad, torch.tensor([-1 / 3, -1 / 6, 0.0]))


def test_bradley_terry_recovers_the_density_ratio():
    """Scores fitted to the pair loss end at log pi_teacher / pi_student, up to a constant."""
    teacher, student = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    scores = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([scores], max_iter=200, tolerance_grad=1e-10)
    pairs = teacher[:, None] * student[None]

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        losses = torch.stack(
            [bradley_terry(a[None], b[None])[0] for a in scores for b in scores]
        ).view(3, 3)
        loss = (pairs * losses).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    ratio = (teacher / student).log()
    found, expected = scores.detach() - scores.detach().mean(), ratio - ratio.mean()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_binary_cross_entropy_is_torchs():
    generator = Generator().manual_seed(1)
    teacher, student = torch.randn(2, 16, generator=generator).double()
    loss, _ = binary_cross_entropy(teacher, student)
    logits = torch.cat([teacher, student])
    labels = torch.cat([torch.ones(16), torch.zeros(16)]).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(loss, expected)


def test_r1_of_a_linear_discriminator_is_its_squared_slope():
    generator = Generator().manual_seed(2)
    slope = torch.randn(4, 3, 5, 5, generator=generator).double().requires_grad_()
    clips = torch.rand(6, 4, 3, 5, 5, generator=generator).double().requires_grad_()
    penalty = r1_penalty((clips * slope).sum(dim=(1, 2, 3, 4)), clips)
    torch.testing.assert_close(penalty, slope.square().sum())
    (gradient,) = torch.autograd.grad(penalty, slope)
    torch.testing.assert_close(gradient, 2 * slope)


def test_r1_of_a_curved_discriminator_is_the_mean_over_clips():
    clips = torch.rand(3, 2, 3, 2, 2, generator=Generator().manual_seed(3)).double()
    clips.requires_grad_()
    penalty = r1_penalty(clips.square().sum(dim=(1, 2, 3, 4)), clips)
    torch.testing.assert_close(penalty, (2 * clips).square().sum(dim=(1, 2, 3, 4)).mean())


def test_the_generator_loss_is_the_pair_loss_with_the_roles_exchanged():
    generator = Generator().manual_seed(4)
    teacher, student = (
        torch.randn(16, generator=generator).double().requires_grad_() for _ in range(2)
    )
    loss, metrics = generator_loss(student, teacher)
    torch.testing.assert_close(loss, bradley_terry(student, teacher)[0])
    torch.testing.assert_close(metrics["margin"], bradley_terry(teacher, student)[1]["margin"])
    assert torch.autograd.grad(loss, teacher, allow_unused=True, retain_graph=True)[0] is None
    (pull,) = torch.autograd.grad(loss, student)
    assert (pull < 0).all()
