"""Gauges against cases that are known by hand."""

import numpy as np
import pytest

from afd.evaluation.metrics import diagnostics

RNG = np.random.default_rng(0)


def sigmoid(value: float) -> float:
    return 1 / (1 + np.exp(-value))


def test_a_calibrated_discriminator_has_no_calibration_error():
    size = RNG.uniform(0, 4, 200_000)
    right = RNG.random(len(size)) < sigmoid(size)
    assert diagnostics.calibration_error(np.where(right, size, -size)) < 0.005


def test_an_overconfident_discriminator_is_off_by_what_it_claims_too_much():
    margins = np.where(np.arange(1000) % 4 == 0, -8.0, 8.0)  # right in 3 of 4, claims .9997
    assert diagnostics.calibration_error(margins) == pytest.approx(sigmoid(8) - 0.75)
    assert diagnostics.calibration_error([-8.0] * 5) == pytest.approx(sigmoid(8))  # sure, and wrong


def test_effective_share_by_hand():
    assert diagnostics.effective_share([1.0, 0.0, 1.0, 0.0]) == 1.0
    assert diagnostics.effective_share([1.0, 0.5, 0.5, 0.5]) == 0.25
    assert diagnostics.effective_share([0.5, 0.5]) == 0.0
    assert diagnostics.effective_share([1.0, 0.75]) == pytest.approx(1.5**2 / (2 * 1.25))


def test_rank_correlation_counts_only_groups_that_say_something():
    scores = np.array([[1.0, 2, 3, 4], [1, 1, 1, 1], [4, 3, 2, 1], [1, 2, 3, 9]])
    quality = np.array([[10, 20, 30, 40], [1, 2, 3, 4], [1, 2, 3, 4], [1, np.nan, np.nan, 2]])
    assert diagnostics.rank_correlation(scores, quality) == pytest.approx(0.0)  # +1 and -1
    assert diagnostics.rank_correlation(scores[:1], quality[:1]) == pytest.approx(1.0)
    assert diagnostics.rank_correlation(scores[1:2], quality[1:2]) is None


def test_static_and_duplicate_clips_are_counted():
    groups = RNG.integers(0, 255, (3, 4, 5, 3, 4, 4), np.uint8)
    assert diagnostics.duplicate_share(groups) == 0
    groups[0, 3] = groups[0, 1] + 1
    groups[2, 1] = groups[2, 0]
    assert diagnostics.duplicate_share(groups) == pytest.approx(2 / 12)
    clips = groups.reshape(12, *groups.shape[2:])
    assert diagnostics.static_share(clips) == 0
    clips[5] = clips[5, :1]
    assert diagnostics.static_share(clips) == pytest.approx(1 / 12)
    one_pixel = clips[5].copy()
    one_pixel[np.arange(5), 0, 0, 0] = np.linspace(0, 255, 5)  # a small body that moves
    assert diagnostics.static_share(one_pixel[None]) == 0
