"""The anchor: a mean square in units of the latents' own variance."""

import pytest
import torch
from torch import Generator

from afd.losses.anchor import anchor


def test_rescaling_the_latents_does_not_change_the_anchor():
    student, reference = torch.randn(2, 3, 4, 2, 1, 1, generator=Generator().manual_seed(0))
    loss, _ = anchor(student, reference, latent_variance=0.7)
    scaled, _ = anchor(5 * student, 5 * reference, latent_variance=0.7 * 25)
    torch.testing.assert_close(loss, scaled)
    torch.testing.assert_close(loss, (student - reference).square().mean() / 0.7)


def test_no_gradient_reaches_the_reference():
    student = torch.ones(1, 1, 1, 1, 1, requires_grad=True)
    reference = torch.zeros(1, 1, 1, 1, 1, requires_grad=True)
    anchor(student, reference, 1.0)[0].backward()
    assert reference.grad is None and student.grad is not None


def test_a_variance_of_zero_is_refused():
    with pytest.raises(ValueError, match="latent_variance is 0"):
        anchor(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1), 0.0)
