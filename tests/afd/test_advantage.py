"""Scores -> advantages -> weights: sums, units, ties and the control."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from afd.advantage import (
    advantages,
    extremes,
    shuffled,
    smallest_spread,
    weights,
    zero_spread_share,
)

CLIP = 5.0


def scores(prompts: int = 6, group: int = 8) -> Tensor:
    generator = Generator().manual_seed(0)
    prompt = 10 * torch.randn(prompts, 1, generator=generator)
    return (prompt + torch.randn(prompts, group, generator=generator)).double()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), group=st.integers(2, 16), scale=st.floats(1e-3, 1e3))
def test_a_group_sums_to_zero_with_unit_spread(seed: int, group: int, scale: float):
    drawn = torch.randn(3, group, generator=Generator().manual_seed(seed), dtype=torch.float64)
    found = advantages(scale * drawn, clip=100.0)
    torch.testing.assert_close(found.sum(1), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.std(1, correction=0), torch.ones(3).double())


def test_group_scope_ignores_the_level_and_scale_of_a_prompt():
    given = scores()
    changed = given.clone()
    changed[2] = 7 * changed[2] - 100
    torch.testing.assert_close(advantages(given, CLIP), advantages(changed, CLIP))


def test_batch_scope_is_one_standardisation():
    given = scores()
    expected = (given - given.mean()) / given.std(correction=0)
    torch.testing.assert_close(advantages(given, CLIP, "batch"), expected)
    assert abs(advantages(given, CLIP, "batch")[0].sum()) > 1  # groups do not cancel there


def test_advantages_are_clipped_on_both_sides():
    lonely = torch.zeros(2, 50)
    lonely[0, 0], lonely[1, 0] = 1, -1  # 7 deviations from 49 equals
    found = advantages(lonely, CLIP)
    assert found[0, 0] == CLIP and found[1, 0] == -CLIP


@pytest.mark.parametrize("value", [0.0, 3.3333333, -1e4])
def test_a_group_without_spread_says_nothing(value: float):
    given = torch.cat([torch.full((1, 8), value), scores(1).float()])
    found = advantages(given, CLIP)
    assert (found[0] == 0).all() and found[1].abs().max() > 0
    assert (weights(found, CLIP)[0] == 0.5).all()
    assert zero_spread_share(given) == 0.5


def test_rounding_of_a_bfloat16_discriminator_is_no_spread():
    """Scores that differ by less than one of its steps would be made full-size advantages."""
    near = 1 + 0.003 * torch.arange(4).reshape(1, 4)
    smallest = smallest_spread(torch.bfloat16)
    assert advantages(near, CLIP).abs().max() > 1
    assert (advantages(near, CLIP, smallest=smallest) == 0).all()
    assert zero_spread_share(near) == 0 and zero_spread_share(near, smallest) == 1


def test_weights_run_linearly_from_zero_to_one():
    given = torch.tensor([[-9.0, -5, -2.5, 0, 2.5, 5, 9]])
    expected = torch.tensor([[0, 0, 0.25, 0.5, 0.75, 1, 1]])
    torch.testing.assert_close(weights(given, CLIP), expected)


def test_advantages_carry_no_gradient():
    given = scores().requires_grad_()
    assert not weights(advantages(given, CLIP), CLIP).requires_grad


def test_extremes_are_the_best_and_worst_of_each_group():
    given = scores()
    chosen = extremes(given, best=2, worst=2)
    picked = given.gather(1, chosen)
    ordered = given.sort(dim=1, descending=True).values
    assert torch.equal(picked, ordered[:, [0, 1, -2, -1]])


def test_extremes_of_ties_are_distinct_and_reproducible():
    chosen = extremes(torch.zeros(2, 6), best=3, worst=3)
    assert chosen.tolist() == [[0, 1, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize(("best", "worst"), [(0, 0), (5, 4), (-1, 2)])
def test_impossible_extremes_are_refused(best: int, worst: int):
    with pytest.raises(ValueError, match="group size, 8"):
        extremes(scores(), best, worst)


def test_shuffling_keeps_every_group_and_breaks_its_order():
    given = advantages(scores(200), CLIP)
    mixed = shuffled(given, Generator().manual_seed(0))
    assert torch.equal(mixed.sort(dim=1).values, given.sort(dim=1).values)
    correlation = (mixed * given).mean() / given.square().mean()
    assert abs(correlation) < 0.1  # 4 standard errors of 1,600 rollouts
    assert torch.equal(mixed, shuffled(given, Generator().manual_seed(0)))


def test_clip_must_be_positive():
    with pytest.raises(ValueError, match="clip is 0"):
        advantages(scores(), 0.0)
