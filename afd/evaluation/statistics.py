"""Statistics of a comparison: paired by prompt, bootstrap over prompts, Holm's correction.

The unit is the prompt: noise seeds inside a prompt are averaged first, then the student's value is
paired with the baseline's on the same prompt. Measured coverage of nominal 95 % intervals: over 3
training seeds 76 %, prompt x seed flattened 91 %, paired by prompt 96 % and 40 % narrower. So
training seeds are drawn as dots and never bootstrapped.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from afd import seeds

Floats = npt.NDArray[np.float64]

MIN_RESAMPLES = 999


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its interval.

    low, high   None when not estimable: fewer than 2 prompts, or none
    num_prompts prompts of the mean; num_dropped  prompts without a value on either side
    method      of the interval: BCa; percentile where BCa is degenerate; exact where all
                values are equal
    p_value     two-sided bootstrap p of mean 0, never below 2^(1 - n), the least p that n signs
                can have, however equal their values are; None as above
    """

    mean: float | None
    low: float | None
    high: float | None
    num_prompts: int
    num_dropped: int
    method: Literal["bca", "percentile", "exact", "not estimable"]
    p_value: float | None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def by_prompt(prompt_ids: Sequence[str], values: npt.ArrayLike) -> dict[str, float]:
    """Return the mean of each prompt's values, without nan (metric not defined).

    A prompt without any defined value is nan, so that it can be counted as dropped.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(prompt_ids),):
        raise ValueError(f"{len(prompt_ids)} prompt ids, values of shape {array.shape}")
    if np.isinf(array).any():
        raise ValueError(f"{int(np.isinf(array).sum())} values are infinite")
    collected: dict[str, list[float]] = {}
    for prompt_id, value in zip(prompt_ids, array, strict=True):
        collected.setdefault(prompt_id, []).extend([] if np.isnan(value) else [float(value)])
    return {key: float(np.mean(some)) if some else np.nan for key, some in collected.items()}


def mean_of(values: Mapping[str, float]) -> float | None:
    """Return the mean over the prompts that have a value; None where none has."""
    return _mean(np.array([values[key] for key in sorted(values)], dtype=np.float64))


def mean_over_prompts(
    values: Mapping[str, float], seed: int, num_resamples: int = 9999, confidence: float = 0.95
) -> Estimate:
    """Return the mean of one side with its interval."""
    array = np.array([values[key] for key in sorted(values)], dtype=np.float64)
    return _estimate(array, seed, num_resamples, confidence)


def paired_difference(
    student: Mapping[str, float],
    baseline: Mapping[str, float],
    seed: int,
    num_resamples: int = 9999,
    confidence: float = 0.95,
) -> Estimate:
    """Return the mean over prompts of student minus baseline, where both have a value.

    Prompts of only one side and prompts with nan on either side are dropped, and counted.
    """
    keys = sorted(student.keys() | baseline.keys())
    nan = float("nan")
    difference = [student.get(key, nan) - baseline.get(key, nan) for key in keys]
    return _estimate(np.array(difference, dtype=np.float64), seed, num_resamples, confidence)


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return Holm's step-down adjusted p values; metrics without one are not in the family."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = {name: None for name in p_values}
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = largest
    return adjusted


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    # Equal numbers: their mean without rounding.
    return float(known[0] if np.ptp(known) == 0 else known.mean())


def _estimate(values: Floats, seed: int, num_resamples: int, confidence: float) -> Estimate:
    if num_resamples < MIN_RESAMPLES:
        raise ValueError(f"num_resamples {num_resamples}: at least {MIN_RESAMPLES}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: between 0 and 1")
    known = values[~np.isnan(values)]
    dropped, mean = len(values) - len(known), _mean(known)
    if mean is None or len(known) < 2:
        return Estimate(mean, None, None, len(known), dropped, "not estimable", None)
    if np.ptp(known) == 0:
        p_value = 1.0 if mean == 0 else max(2.0 ** (1 - len(known)), 1 / (num_resamples + 1))
        return Estimate(mean, mean, mean, len(known), dropped, "exact", p_value)
    low, high, method, resampled = _bootstrap(known, seed, num_resamples, confidence)
    p_value = max(2.0 ** (1 - len(known)), _two_sided(resampled))
    return Estimate(mean, low, high, len(known), dropped, method, p_value)


def _bootstrap(
    values: Floats, seed: int, num_resamples: int, confidence: float
) -> tuple[float, float, Literal["bca", "percentile"], Floats]:
    """Return interval and resampled means: BCa, or percentile where BCa is not finite."""
    import scipy.stats  # 1 s to import: `dvc repro` reads cells without it

    for method in ("bca", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
            result: Any = scipy.stats.bootstrap(
                (values,),
                np.mean,
                n_resamples=num_resamples,
                batch=max(1, 2_000_000 // len(values)),
                confidence_level=confidence,
                method="BCa" if method == "bca" else method,
                rng=seeds.numpy_generator(seed, "bootstrap"),
            )
        low, high = map(float, result.confidence_interval)
        if np.isfinite(low) and np.isfinite(high):
            return low, high, method, np.asarray(result.bootstrap_distribution)
    raise ArithmeticError(f"no bootstrap interval of {len(values)} values")


def _two_sided(resampled: Floats) -> float:
    """Return twice the smaller tail of the resampled means at 0, with the sample itself."""
    total = len(resampled) + 1
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum())) + 1
    return min(1.0, 2 * tail / total)
