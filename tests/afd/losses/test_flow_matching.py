"""THE loss against the written formula, literally, and the facts about its value and gradient."""

import pytest
import torch
from torch import Generator, Tensor

from afd.flow import path
from afd.losses.flow_matching import nft_loss, sft_loss

BATCH, CHANNELS, FRAMES, BLOCKS = 4, 3, 6, 3
BETA = 0.1


class Case:
    """Random velocities and states in float64, and a weight for each sample."""

    def __init__(self) -> None:
        generator = Generator().manual_seed(0)

        def drawn() -> Tensor:
            shape = (BATCH, CHANNELS, FRAMES, 2, 2)
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.clean, self.noise, self.behaviour = drawn(), drawn(), drawn()
        self.student = (self.behaviour + 0.3 * drawn()).requires_grad_()
        self.t = 0.1 + 0.9 * torch.rand(BATCH, BLOCKS, generator=generator, dtype=torch.float64)
        self.weight = torch.rand(BATCH, generator=generator, dtype=torch.float64)

    def loss(self, student: Tensor, **changes: object) -> Tensor:
        known = {
            "clean": self.clean,
            "noise": self.noise,
            "t": self.t,
            "weight": self.weight,
            "beta": BETA,
        }
        return nft_loss(student, self.behaviour, **(known | changes))[0]

    def gradient(self, student: Tensor, **changes: object) -> Tensor:
        student = student.detach().requires_grad_()
        return torch.autograd.grad(self.loss(student, **changes), student)[0]


@pytest.fixture
def case() -> Case:
    return Case()


def written_formula(case: Case, student: Tensor) -> Tensor:
    velocity = case.noise - case.clean
    positive = (1 - BETA) * case.behaviour + BETA * student
    negative = (1 + BETA) * case.behaviour - BETA * student
    loss = torch.zeros((), dtype=torch.float64)
    for sample in range(BATCH):
        w = case.weight[sample]
        loss = loss + w * ((positive[sample] - velocity[sample]) ** 2).mean()
        loss = loss + (1 - w) * ((negative[sample] - velocity[sample]) ** 2).mean()
    return loss / BATCH


def published_code(case: Case, student: Tensor, normaliser: str) -> Tensor:
    """DiffusionNFT's clean-space form, block by block."""
    noisy = path.noisy(case.clean, case.noise, case.t)
    signs = {
        "positive": (1 - BETA) * case.behaviour + BETA * student,
        "negative": (1 + BETA) * case.behaviour - BETA * student,
    }
    terms = {}
    for name, velocity in signs.items():
        clean = path.clean_from_velocity(noisy, velocity, case.t)
        per_block = []
        for block in range(BLOCKS):
            frames = slice(2 * block, 2 * block + 2)
            error = clean[:, :, frames] - case.clean[:, :, frames]
            scope = error if normaliser == "block" else clean - case.clean
            q = scope.detach().abs().mean(dim=(1, 2, 3, 4)).clamp(min=1e-5)
            per_block.append((error**2).mean(dim=(1, 2, 3, 4)) / q)
        terms[name] = torch.stack(per_block).mean(dim=0)
    w = case.weight
    return (w * terms["positive"] / BETA + (1 - w) * terms["negative"] / BETA).mean()


def test_velocity_scaling_is_the_written_formula(case: Case):
    expected = written_formula(case, case.student)
    actual = case.loss(case.student, scaling="velocity")
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(actual, case.student)[0],
        torch.autograd.grad(expected, case.student)[0],
        rtol=1e-10,
        atol=1e-15,
    )


@pytest.mark.parametrize("normaliser", ["block", "sample"])
def test_adaptive_scaling_is_the_published_code(case: Case, normaliser: str):
    expected = published_code(case, case.student, normaliser)
    actual = case.loss(case.student, scaling="adaptive_clean", normaliser=normaliser)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(actual, case.student)[0],
        torch.autograd.grad(expected, case.student)[0],
        rtol=1e-10,
        atol=1e-15,
    )


@pytest.mark.parametrize("scaling", ["velocity", "adaptive_clean"])
def test_at_the_behaviour_student_the_value_ignores_the_weight(case: Case, scaling: str):
    values = [
        case.loss(
            case.behaviour, scaling=scaling, weight=torch.full((BATCH,), w, dtype=torch.float64)
        )
        for w in (0.0, 0.3, 1.0)
    ]
    torch.testing.assert_close(values[1], values[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(values[2], values[0], rtol=1e-13, atol=0)


@pytest.mark.parametrize("scaling", ["velocity", "adaptive_clean"])
def test_at_the_behaviour_student_the_gradient_is_proportional_to_2w_minus_1(
    case: Case, scaling: str
):
    def gradient(w: float) -> Tensor:
        return case.gradient(
            case.behaviour, scaling=scaling, weight=torch.full((BATCH,), w, dtype=torch.float64)
        )

    full = gradient(1.0)
    assert full.abs().max() > 1e-4
    for w in (0.0, 0.25, 0.5, 0.8):
        torch.testing.assert_close(gradient(w), (2 * w - 1) * full, rtol=1e-9, atol=1e-16)


def test_at_the_behaviour_student_the_plain_gradient_points_along_its_error(case: Case):
    error = case.behaviour - path.velocity(case.clean, case.noise)
    sharpness = (2 * case.weight - 1)[:, None, None, None, None]
    expected = 2 * BETA * sharpness * error / error.numel()
    torch.testing.assert_close(
        case.gradient(case.behaviour, scaling="velocity"), expected, rtol=1e-10, atol=1e-16
    )


def test_a_good_rollout_pulls_and_a_bad_one_pushes(case: Case):
    error = case.behaviour - path.velocity(case.clean, case.noise)
    for weight, sign in ((1.0, 1), (0.0, -1)):
        gradient = case.gradient(
            case.behaviour, weight=torch.full((BATCH,), weight, dtype=torch.float64)
        )
        assert ((gradient * error).sum(dim=(1, 2, 3, 4)) * sign > 0).all()


def test_no_gradient_reaches_the_behaviour_student(case: Case):
    behaviour = case.behaviour.clone().requires_grad_()
    loss, _ = nft_loss(
        case.student,
        behaviour,
        clean=case.clean,
        noise=case.noise,
        t=case.t,
        weight=case.weight,
        beta=BETA,
    )
    loss.backward()
    assert behaviour.grad is None and case.student.grad is not None


def test_a_weight_per_block_acts_on_its_own_block_only(case: Case):
    weight = torch.full((BATCH, BLOCKS), 0.5, dtype=torch.float64)
    weight[:, 1] = 1.0
    gradient = case.gradient(case.behaviour, weight=weight)
    assert gradient[:, :, 2:4].abs().min() > 0
    assert gradient[:, :, :2].abs().max() < 1e-15 and gradient[:, :, 4:].abs().max() < 1e-15


def test_a_perfect_student_is_finite_in_adaptive_scaling(case: Case):
    velocity = path.velocity(case.clean, case.noise)
    student = velocity.clone().requires_grad_()
    loss, _ = nft_loss(
        student,
        velocity,
        clean=case.clean,
        noise=case.noise,
        t=case.t,
        weight=case.weight,
        beta=BETA,
    )
    loss.backward()
    assert loss == 0 and student.grad is not None and student.grad.abs().max() == 0


def test_metrics_measure_sharpness_and_distance(case: Case):
    _, metrics = nft_loss(
        case.student,
        case.behaviour,
        clean=case.clean,
        noise=case.noise,
        t=case.t,
        weight=torch.tensor([0.0, 1.0, 0.5, 0.75]).double(),
        beta=BETA,
    )
    assert metrics["weight_sharpness"].item() == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    expected = (case.student - case.behaviour).square().mean()
    torch.testing.assert_close(metrics["distance_to_behaviour"], expected.detach())
    assert not any(value.requires_grad for value in metrics.values())


def test_sft_is_plain_flow_matching(case: Case):
    loss, metrics = sft_loss(case.student, clean=case.clean, noise=case.noise, t=case.t)
    expected = (case.student - (case.noise - case.clean)).square().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["velocity_error"], expected.detach())


def test_sft_in_clean_space_divides_each_block_by_its_own_error(case: Case):
    loss, _ = sft_loss(
        case.student, clean=case.clean, noise=case.noise, t=case.t, scaling="adaptive_clean"
    )
    noisy = path.noisy(case.clean, case.noise, case.t)
    error = path.clean_from_velocity(noisy, case.student, case.t) - case.clean
    blocks = error.unflatten(2, (BLOCKS, 2)).movedim(2, 1).flatten(2)
    expected = (blocks.square().mean(2) / blocks.abs().mean(2)).mean()
    torch.testing.assert_close(loss, expected)


def test_beta_must_be_positive(case: Case):
    with pytest.raises(ValueError, match="beta is 0"):
        case.loss(case.student, beta=0.0)
