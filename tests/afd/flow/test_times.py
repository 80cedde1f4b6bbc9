"""Times: published step lists, and the distributions training draws from."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Generator

from afd.flow.times import SMALLEST_TIME, draw_times, shifted, step_list


def test_published_step_lists():
    assert step_list(4, 3) == pytest.approx((1, 0.9, 0.75, 0.5), abs=1e-12)
    assert step_list(4, 5) == pytest.approx((1, 0.9375, 5 / 6, 0.625), abs=1e-12)


def test_step_list_is_the_schedulers_when_its_shift_is_applied_once():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5)
    scheduler.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25])
    assert step_list(4, 5) == pytest.approx(scheduler.sigmas[:-1].tolist(), abs=1e-6)


def test_shift_fixes_the_ends_and_undoes_its_inverse():
    assert (shifted(0, 7), shifted(1, 7)) == (0, 1)
    assert shifted(shifted(0.3, 5), 1 / 5) == pytest.approx(0.3, abs=1e-15)


def test_training_times_are_exactly_the_rollouts_times():
    steps = step_list(4, 5)
    drawn = draw_times("steps", 500, 7, Generator().manual_seed(0), steps=steps)
    assert set(drawn.unique().tolist()) == set(torch.tensor(steps, dtype=torch.float32).tolist())


def test_steps_are_drawn_evenly_and_independently_per_block():
    drawn = draw_times("steps", 40_000, 2, Generator().manual_seed(0), steps=(1.0, 0.5))
    first, second = (drawn == 1).float().T
    for share in (first.mean(), second.mean()):
        assert abs(share - 0.5) < 0.01  # 4 standard errors of 40,000 fair draws
    assert abs((first * second).mean() - 0.25) < 0.01


@pytest.mark.parametrize(("distribution", "shift"), [("uniform", 1.0), ("shifted_uniform", 3.0)])
def test_continuous_times_follow_their_distribution(distribution, shift):
    drawn = draw_times(distribution, 20_000, 2, Generator().manual_seed(0), shift=shift).flatten()
    assert drawn.min() >= SMALLEST_TIME and drawn.max() <= 1
    for quantile in (0.1, 0.5, 0.9):
        below = (drawn <= shifted(quantile, shift)).float().mean()
        assert abs(below - quantile) < 0.012  # 4 standard errors of 40,000 draws


def test_draws_depend_on_the_generator_alone():
    state = torch.random.get_rng_state()
    first = draw_times("uniform", 4, 3, Generator().manual_seed(5))
    assert torch.equal(first, draw_times("uniform", 4, 3, Generator().manual_seed(5)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_missing_or_impossible_values_are_refused():
    with pytest.raises(ValueError, match="steps is empty"):
        draw_times("steps", 1, 1, Generator())
    with pytest.raises(ValueError, match="num_steps is 0"):
        step_list(0, 3)
    with pytest.raises(ValueError, match="shift is -1"):
        step_list(4, -1)
