"""R1 by differences against the exact one."""

import pytest
import torch
from torch import Generator, Tensor, nn

from afd.losses.adversarial import r1_penalty
from afd.losses.gradient_penalty import r1_by_differences


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 1)).double()


def test_along_one_direction_it_is_the_slope_squared() -> None:
    model = net()
    seen = torch.randn(5, 12, generator=Generator().manual_seed(1), dtype=torch.float64)
    u = torch.randn(5, 12, generator=Generator().manual_seed(2), dtype=torch.float64)
    leaf = seen.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(leaf).sum(), leaf)
    exact = (slope * u).sum(dim=1).square().mean()
    planned = r1_by_differences(lambda s: model(s)[:, 0], seen, u, 1e-2)
    torch.testing.assert_close(planned, exact, rtol=1e-3, atol=0)


def test_over_many_directions_it_is_r1_and_so_is_its_gradient() -> None:
    model = net()
    one = torch.randn(1, 12, generator=Generator().manual_seed(1), dtype=torch.float64)
    many = 40_000
    u = torch.randn(many, 12, generator=Generator().manual_seed(3), dtype=torch.float64)

    def score(seen: Tensor) -> Tensor:
        return model(seen)[:, 0]

    leaf = one.clone().requires_grad_()
    exact = r1_penalty(score(leaf), leaf)
    planned = r1_by_differences(score, one.expand(many, -1), u, 1e-2)
    # relative spread sqrt(2 / n) of a mean of n squares: 3 % is four of them
    assert planned.item() == pytest.approx(exact.item(), rel=0.03)
    wanted = torch.autograd.grad(exact, model[0].weight)[0]
    found = torch.autograd.grad(planned, model[0].weight)[0]
    assert (found - wanted).norm() < 0.03 * wanted.norm()
