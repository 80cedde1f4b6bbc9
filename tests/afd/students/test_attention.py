"""Rotations against Wan's own tables, in float64 accuracy and at explicit frames."""

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Generator

from afd.students.attention import rotated, rotations

CPU = torch.device("cpu")


@pytest.mark.parametrize("head_size", [6, 10, 12, 16, 32, 128])  # 10, 16, 32, 128 split unevenly
@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_rotations_are_wans_tables(head_size: int, grid: tuple[int, int]):
    stock = WanRotaryPosEmbed(head_size, (1, 2, 2), 64)
    cos, sin = stock(torch.zeros(1, 1, 5, 2 * grid[0], 2 * grid[1]))
    found = rotations(tuple(range(5)), grid, head_size, CPU)
    torch.testing.assert_close(found.real, cos[0, :, 0, 0::2], atol=1e-7, rtol=0)
    torch.testing.assert_close(found.imag, sin[0, :, 0, 1::2], atol=1e-7, rtol=0)


def test_a_late_frame_turns_as_it_does_in_the_whole_clip():
    whole = rotations(tuple(range(21)), (2, 2), 16, CPU).reshape(21, 4, -1)
    alone = rotations((7, 20), (2, 2), 16, CPU).reshape(2, 4, -1)
    assert torch.equal(alone, whole[[7, 20]])


def test_turning_is_by_pairs_of_neighbouring_channels_and_keeps_length():
    states = torch.randn(2, 6, 3 * 10, generator=Generator().manual_seed(0))
    rotation = rotations(tuple(range(3)), (1, 2), 10, CPU)
    found = rotated(states, 3, rotation)
    assert found.shape == (2, 3, 6, 10)
    torch.testing.assert_close(
        found.norm(dim=3), states.reshape(2, 6, 3, 10).transpose(1, 2).norm(dim=3)
    )
    pair = states[1, 4, 2 * 10 + 2 : 2 * 10 + 4]  # head 2, second pair, token 4
    angle = rotation[4, 1].angle()
    expected = torch.stack(
        [
            pair[0] * angle.cos() - pair[1] * angle.sin(),
            pair[0] * angle.sin() + pair[1] * angle.cos(),
        ]
    )
    torch.testing.assert_close(found[1, 2, 4, 2:4], expected)


def test_only_the_distance_between_frames_matters_to_a_product():
    query, key = torch.randn(2, 1, 1, 16, generator=Generator().manual_seed(1))

    def product(frame: int, other: int) -> torch.Tensor:
        turned_query = rotated(query, 1, rotations((frame,), (1, 1), 16, CPU))
        return (turned_query * rotated(key, 1, rotations((other,), (1, 1), 16, CPU))).sum()

    torch.testing.assert_close(product(3, 1), product(17, 15), atol=1e-5, rtol=0)
    assert abs(product(3, 1) - product(3, 2)) > 1e-3


def test_half_precision_states_stay_in_half_precision():
    states = torch.randn(1, 4, 16, generator=Generator().manual_seed(2)).bfloat16()
    found = rotated(states, 1, rotations(tuple(range(4)), (1, 1), 16, CPU))
    assert found.dtype == torch.bfloat16
    exact = rotated(states.float(), 1, rotations(tuple(range(4)), (1, 1), 16, CPU))
    torch.testing.assert_close(found.float(), exact, atol=0.02, rtol=0)
