"""Intervals against known distributions, pairing against hand-made tables."""

import math

import numpy as np
import pytest
import scipy.stats

from afd.evaluation.statistics import by_prompt, holm, mean_over_prompts, paired_difference

NAN = math.nan


def named(values: list[float]) -> dict[str, float]:
    return {f"p{number:04d}": value for number, value in enumerate(values)}


def test_noise_seeds_are_averaged_inside_a_prompt() -> None:
    ids = ["a", "b", "a", "c", "b", "c", "d"]
    values = [1.0, 5.0, 3.0, NAN, 7.0, 4.0, NAN]
    averaged = by_prompt(ids, values)
    assert {k: v for k, v in averaged.items() if k != "d"} == {"a": 2.0, "b": 6.0, "c": 4.0}
    assert math.isnan(averaged["d"])


def test_values_that_are_not_measurements_are_refused() -> None:
    with pytest.raises(ValueError, match="infinite"):
        by_prompt(["a"], [math.inf])
    with pytest.raises(ValueError, match="2 prompt ids"):
        by_prompt(["a", "b"], [1.0])


def test_only_common_prompts_count_and_the_rest_is_told() -> None:
    student = {"a": 1.0, "b": 2.0, "c": NAN, "d": 4.0, "only": 9.0}
    baseline = {"a": 0.0, "b": 3.0, "c": 1.0, "d": 2.0, "other": 9.0}
    estimate = paired_difference(student, baseline, seed=1, num_resamples=999)
    assert estimate.mean == pytest.approx((1 - 1 + 2) / 3)
    assert (estimate.num_prompts, estimate.num_dropped) == (3, 3)


@pytest.mark.parametrize(
    ("values", "mean"),
    [({}, None), ({"a": 1.5}, 1.5), ({"a": NAN}, None), ({"a": NAN, "b": 2.0}, 2.0)],
)
def test_fewer_than_two_prompts_are_not_estimable(values: dict, mean: float | None) -> None:
    estimate = mean_over_prompts(values, seed=1)
    assert estimate.mean == mean
    assert (estimate.low, estimate.high, estimate.p_value) == (None, None, None)
    assert estimate.method == "not estimable"
    assert not estimate.excludes_zero


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.3, 2.0**-9)])
def test_equal_values(value: float, p_value: float) -> None:
    estimate = mean_over_prompts(named([value] * 10), seed=1)
    assert (estimate.low, estimate.mean, estimate.high) == (value, value, value)
    assert estimate.method == "exact"
    assert estimate.p_value == pytest.approx(p_value)


def test_few_prompts_never_give_a_small_p() -> None:
    estimate = mean_over_prompts(named([1.0, 1.1, 1.2]), seed=1)
    assert estimate.p_value == pytest.approx(0.25)


def test_interval_agrees_with_the_normal_one_where_that_is_right() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    estimate = mean_over_prompts(named(values.tolist()), seed=1)
    low, high = scipy.stats.t.interval(0.95, 399, loc=values.mean(), scale=scipy.stats.sem(values))
    assert estimate.method == "bca"
    assert estimate.low == pytest.approx(low, abs=0.01)
    assert estimate.high == pytest.approx(high, abs=0.01)
    assert estimate.excludes_zero


def test_a_share_of_one_in_many_still_has_an_interval() -> None:
    estimate = mean_over_prompts(named([1.0] + [0.0] * 191), seed=1)
    assert estimate.low is not None
    assert estimate.high is not None
    assert 0 <= estimate.low <= 1 / 192 <= estimate.high < 0.05


def test_the_seed_decides_and_the_order_does_not() -> None:
    values = named(np.random.default_rng(0).normal(0.1, 1.0, 50).tolist())
    first = mean_over_prompts(values, seed=7)
    assert mean_over_prompts(dict(reversed(values.items())), seed=7) == first
    assert mean_over_prompts(values, seed=8) != first


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_scale_does_not_matter(scale: float) -> None:
    values = np.random.default_rng(0).normal(0.5, 1.0, 40)
    one = mean_over_prompts(named(values.tolist()), seed=1)
    scaled = mean_over_prompts(named((values * scale).tolist()), seed=1)
    assert scaled.low is not None
    assert one.low is not None
    assert scaled.low / scale == pytest.approx(one.low, rel=1e-6)
    assert scaled.p_value == one.p_value


def test_coverage_of_paired_differences() -> None:
    """Prompts differ far more than arms do; pairing takes them out. Skewed differences, n = 40."""
    generator = np.random.default_rng(1)
    covered, widths, trials = 0, [], 250
    for trial in range(trials):
        prompts = generator.normal(0, 5, 40)
        student = prompts + generator.exponential(1.0, 40)  # true difference 1
        estimate = paired_difference(
            named(student.tolist()), named(prompts.tolist()), seed=trial, num_resamples=999
        )
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= 1.0 <= estimate.high
        widths.append(estimate.high - estimate.low)
    assert 0.90 <= covered / trials <= 0.985
    assert np.mean(widths) == pytest.approx(2 * 1.96 / math.sqrt(40), rel=0.1)


def test_p_values_are_uniform_when_nothing_happens() -> None:
    generator = np.random.default_rng(2)
    p_values = [
        mean_over_prompts(named(generator.normal(0, 1, 30).tolist()), trial, 999).p_value
        for trial in range(250)
    ]
    rejected = np.mean([p is not None and p <= 0.05 for p in p_values])
    assert 0.02 <= rejected <= 0.10


def test_holm_against_a_worked_example() -> None:
    """Holm (1979): sorted p times what is left, never falling."""
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": None})
    assert adjusted == {
        "d": pytest.approx(0.02),
        "a": pytest.approx(0.03),
        "c": pytest.approx(0.06),
        "b": pytest.approx(0.06),
        "e": None,
    }
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize(("resamples", "confidence"), [(100, 0.95), (999, 0.0), (999, 1.0)])
def test_settings_that_mean_nothing_are_refused(resamples: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"num_resamples|confidence"):
        mean_over_prompts(named([1.0, 2.0]), 1, resamples, confidence)
