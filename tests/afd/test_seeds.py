"""Randomness by name: the same everywhere, another for every purpose, never by batching."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from afd import seeds

NAMES = ("fit", 3, 17)


def test_a_seed_is_the_same_in_every_process() -> None:
    assert (
        seeds.derive(1, "corpus") == 6719355736784148874
    )  # golden: the head of sha256("1<unit separator>corpus")
    for hash_seed in ("0", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", f"from afd import seeds; print(seeds.derive(7, *{NAMES!r}))"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert int(done.stdout) == seeds.derive(7, *NAMES)


def test_every_purpose_has_its_own() -> None:
    keys = [
        (1, "fit", 3), (1, "fit", 4), (1, "fit", 33), (1, "fit3"), (1, "update", 3), (2, "fit", 3),
        (1, "fit", 3, 0), (12, "fit"), (1, "2", "fit"), (1,),
    ]  # fmt: skip
    derived = [seeds.derive(*key) for key in keys]
    assert len(set(derived)) == len(keys)
    assert all(0 <= value < 2**63 for value in derived)


def test_equal_names_draw_equal_numbers_and_the_global_state_has_no_part() -> None:
    first = torch.randn(5, generator=seeds.generator(1, *NAMES))
    torch.manual_seed(99)
    assert torch.equal(first, torch.randn(5, generator=seeds.generator(1, *NAMES)))
    assert not torch.equal(first, torch.randn(5, generator=seeds.generator(2, *NAMES)))
    one, again = (seeds.numpy_generator(1, *NAMES).normal(size=5) for _ in range(2))
    np.testing.assert_array_equal(one, again)


@pytest.mark.parametrize("sizes", [[1] * 6, [2, 4], [6]])
def test_a_samples_noise_does_not_depend_on_its_batch(sizes: list[int]) -> None:
    each = [seeds.derive(1, "rollout", number) for number in range(6)]
    whole = seeds.sample_noise(each, (3, 2))
    parts = [seeds.sample_noise(part, (3, 2)) for part in _split(each, sizes)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(seeds.sample_noise(each[::-1], (3, 2)), whole.flip(0))


def test_noise_is_standard_normal() -> None:
    noise = seeds.sample_noise([seeds.derive(0, n) for n in range(64)], (256,))
    assert abs(noise.mean().item()) < 0.04  # five standard errors of 16,384 samples
    assert abs(noise.var().item() - 1) < 0.06
    pairs = np.corrcoef(noise.numpy())[np.triu_indices(64, 1)]
    assert np.abs(pairs).max() < 0.35  # five and a half standard errors of 256 samples


def _split(values: list[int], sizes: list[int]) -> list[list[int]]:
    ends = np.cumsum(sizes)
    return [values[end - size : end] for end, size in zip(ends, sizes, strict=True)]
