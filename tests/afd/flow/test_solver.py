"""The few-step solver against velocities that are known in closed form, and diffusers' sampler."""

import pytest
import torch
from diffusers.schedulers import scheduling_flow_match_euler_discrete as scheduling
from torch import Generator, Tensor

from afd.flow import path
from afd.flow.solver import rollout, sample_block, trace
from afd.flow.times import step_list
from afd.latents import LatentGeometry

STEPS = step_list(4, 3)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_velocity(mean: float, deviation: float):
    """The exact velocity when clean ~ N(mean, deviation^2): E[noise - clean | noisy], linear."""

    def velocity(noisy: Tensor, t: Tensor) -> Tensor:
        time = t[:, None, None, None, None]
        variance = ((1 - time) * deviation) ** 2 + time**2
        surprise = (noisy - (1 - time) * mean) / variance
        clean = mean + (1 - time) * deviation**2 * surprise
        noise = time * surprise
        return noise - clean

    return velocity


def test_a_point_target_is_reached_from_any_noise_in_one_step():
    noise = drawn(0, 5, 1, 2, 3, 2, 2)
    clean = sample_block(gaussian_velocity(1.7, 0.0), noise, (1.0,))
    torch.testing.assert_close(clean, torch.full_like(clean, 1.7), rtol=0, atol=1e-12)


def test_a_gaussian_target_against_the_recursion_by_hand():
    mean, deviation = -0.4, 0.6
    noise = drawn(1, 3, 4, 2, 1, 2, 2)
    expected = torch.full_like(noise[:, 0], mean)  # at t = 1 nothing is known: clean = mean
    for step, t in enumerate(STEPS[1:], start=1):
        noisy = (1 - t) * expected + t * noise[:, step]
        gain = (1 - t) * deviation**2 / (((1 - t) * deviation) ** 2 + t**2)
        expected = mean + gain * (noisy - (1 - t) * mean)
    clean = sample_block(gaussian_velocity(mean, deviation), noise, STEPS)
    torch.testing.assert_close(clean, expected, rtol=0, atol=1e-12)


def flow_map_velocity(mean: float, deviation: float):
    """What a perfectly distilled student says: clean is the end of the deterministic flow."""

    def velocity(noisy: Tensor, t: Tensor) -> Tensor:
        time = t[:, None, None, None, None]
        spread = (((1 - time) * deviation) ** 2 + time**2).sqrt()
        clean = mean + deviation * (noisy - (1 - time) * mean) / spread
        return (noisy - clean) / time

    return velocity


@pytest.mark.parametrize("steps", [(1.0,), STEPS, step_list(20, 1.0)])
def test_a_distilled_student_samples_its_target_at_any_number_of_steps(steps):
    clean = sample_block(flow_map_velocity(0.5, 0.8), drawn(2, 8000, len(steps), 1, 1, 1, 1), steps)
    assert abs(clean.mean() - 0.5) < 0.036  # 4 standard errors of 8,000 samples
    assert abs(clean.std() - 0.8) < 0.026


def test_equals_diffusers_stochastic_sampling(monkeypatch):
    noise = drawn(3, 2, 4, 3, 2, 2, 2).float()
    velocity = gaussian_velocity(0.3, 0.5)
    scheduler = scheduling.FlowMatchEulerDiscreteScheduler(shift=3, stochastic_sampling=True)
    scheduler.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25])
    fresh = iter([*noise.unbind(1)[1:], torch.zeros_like(noise[:, 0])])
    monkeypatch.setattr(scheduling, "randn_tensor", lambda *_, **__: next(fresh))
    sample = noise[:, 0]
    for time in scheduler.timesteps:
        t = (time / 1000).expand(2)
        sample = scheduler.step(velocity(sample, t), time, sample, return_dict=False)[0]
    torch.testing.assert_close(sample_block(velocity, noise, STEPS), sample, rtol=0, atol=2e-6)


class Counting:
    """A student whose next block is the sum of its committed blocks plus one: history matters."""

    geometry = LatentGeometry(2, 6, 2, 1, 1)

    def start(self, text: Tensor) -> list[Tensor]:
        return []

    def block_velocity(self, noisy_block: Tensor, t: Tensor, cache: list[Tensor]) -> Tensor:
        clean = torch.ones_like(noisy_block) + sum(cache)
        return (noisy_block - clean) / t[:, None, None, None, None]

    def commit(self, clean_block: Tensor, cache: list[Tensor]) -> None:
        cache.append(clean_block)


def test_blocks_follow_each_other_through_the_cache():
    latents = rollout(Counting(), torch.zeros(3, 1, 1), drawn(4, 3, 4, 2, 6, 1, 1), STEPS)
    expected = torch.tensor([1.0, 1, 2, 2, 4, 4], dtype=torch.float64)
    torch.testing.assert_close(latents[:, :, :, 0, 0], expected.expand(3, 2, 6), rtol=0, atol=1e-12)


def test_a_trace_holds_the_inputs_that_lead_from_noise_to_the_rollout():
    noise = drawn(7, 3, 4, 2, 6, 1, 1)
    latents, chain = trace(Counting(), torch.zeros(3, 1, 1), noise, STEPS)
    torch.testing.assert_close(latents, rollout(Counting(), torch.zeros(3, 1, 1), noise, STEPS))
    torch.testing.assert_close(chain[:, 0], noise[:, 0])
    for step, time in enumerate(STEPS[1:], start=1):  # its guess is right at once
        t = torch.full((3, 3), time, dtype=torch.float64)
        torch.testing.assert_close(chain[:, step], path.noisy(latents, noise[:, step], t))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((1.0, 0.5), "noise has 4 steps"),
        ((0.9, 0.5, 0.4, 0.2), "start at 1"),
        ((1.0, 0.5, 0.6, 0.2), "fall strictly"),
        ((1.0, 0.5, 0.2, 0.0), "above 0"),
    ],
)
def test_step_lists_that_are_no_descent_are_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        sample_block(gaussian_velocity(0, 1), drawn(5, 1, 4, 1, 1, 1, 1), steps)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"noise is \(3, 4, 2, 5, 1, 1\)"):
        rollout(Counting(), torch.zeros(3, 1, 1), drawn(6, 3, 4, 2, 5, 1, 1), STEPS)
