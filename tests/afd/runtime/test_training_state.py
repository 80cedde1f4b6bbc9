"""Weights come back as they were, or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from afd.runtime.training_state import (
    Training,
    WeightsError,
    module_tensors,
    restore_module,
    restore_optimiser,
)


def training(seed: int, num_steps: int) -> Training:
    """A small model with an average, trained for some steps."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        average = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.5, 0.9))
    made = Training("model", {"model": model, "average": average}, optimiser)
    go_on(made, num_steps)
    return made


def go_on(made: Training, num_steps: int, first: int = 0) -> None:
    for step in range(first, first + num_steps):
        given = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        made.optimiser.zero_grad()
        made.modules["model"](given).square().mean().backward()
        made.optimiser.step()


def assert_equal(one: Training, other: Training) -> None:
    ours, theirs = one.tensors(), other.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_round_trip_through_a_file_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, killed = training(0, 7), training(0, 4)
    save_file(killed.tensors(), tmp_path / "kept.safetensors")
    resumed = training(1, 0)  # other weights, and an optimiser that has seen nothing
    resumed.restore(load_file(tmp_path / "kept.safetensors"))
    assert_equal(resumed, killed)
    go_on(resumed, 3, first=4)
    assert_equal(resumed, whole)


def test_what_is_kept_is_a_copy() -> None:
    made = training(0, 2)
    kept = {name: value.clone() for name, value in made.tensors().items()}
    restored = training(0, 0)
    tensors = made.tensors()
    restored.restore(tensors)
    go_on(restored, 3, first=2)
    assert all(torch.equal(tensors[name], kept[name]) for name in kept)


def test_tensors_of_another_model_are_refused_and_named() -> None:
    kept = module_tensors("model", nn.Linear(3, 2))
    with pytest.raises(WeightsError, match="bias"):
        restore_module("model", nn.Linear(3, 2, bias=False), kept)
    with pytest.raises(WeightsError, match="model: saved and present tensors differ"):
        restore_module("model", nn.Linear(3, 2), {})


def test_moments_of_a_parameter_that_is_not_there_are_refused() -> None:
    made = training(0, 1)
    tensors = made.tensors() | {"optimiser/9.weight/exp_avg": torch.zeros(2)}
    with pytest.raises(WeightsError, match=r"9\.weight is no parameter"):
        training(0, 0).restore(tensors)


def test_moments_lie_where_their_parameter_does_and_the_step_on_the_host() -> None:
    """Files are read on the host; on a GPU a step with moments there would mix devices."""
    kept = training(0, 2).tensors()
    elsewhere = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to("meta")
    optimiser = torch.optim.AdamW(elsewhere.parameters())
    restore_optimiser("optimiser", elsewhere, optimiser, kept)
    states = list(optimiser.state.values())
    assert len(states) == 6
    assert {s["exp_avg"].device.type for s in states} == {"meta"}
    assert {s["exp_avg_sq"].device.type for s in states} == {"meta"}
    assert {s["step"].device.type for s in states} == {"cpu"}
