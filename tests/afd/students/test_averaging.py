"""Averages against the recursion by hand."""

import pytest
import torch
from torch import nn

from afd.students.averaging import average_into, averaged, frozen_copy


def test_average_follows_its_recursion():
    student = nn.Linear(3, 2)
    average = frozen_copy(student)
    expected = student.weight.detach().clone().double()
    for step in range(5):
        with torch.no_grad():
            student.weight.add_(step)
        average_into(average, student, 0.9)
        expected = 0.9 * expected + 0.1 * student.weight.detach().double()
    torch.testing.assert_close(average.weight.double(), expected, atol=1e-5, rtol=0)
    assert not average.weight.requires_grad and student.weight.requires_grad


def test_the_pure_form_agrees_and_leaves_its_inputs_alone():
    student, other = nn.Linear(3, 2), nn.Linear(3, 2)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    mixed = averaged(other.state_dict(), student.state_dict(), 0.75)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
    average_into(other, student, 0.75)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(mixed[name], value)


@pytest.mark.parametrize(("decay", "kept"), [(0.0, False), (1.0, True)])
def test_the_ends_take_one_side_exactly(decay: float, kept: bool):
    student, average = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = (average if kept else student).weight.detach().clone()
    average_into(average, student, decay)
    assert torch.equal(average.weight, expected)


def test_counters_are_taken_from_the_student():
    mixed = averaged({"steps": torch.tensor(1)}, {"steps": torch.tensor(9)}, 0.9)
    assert mixed["steps"] == 9


def test_other_models_and_decays_are_refused():
    with pytest.raises(KeyError, match=r"different models.*'b'"):
        averaged({"a": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.zeros(1)}, 0.5)
    with pytest.raises(ValueError, match=r"decay is 1\.5"):
        average_into(nn.Linear(1, 1), nn.Linear(1, 1), 1.5)
