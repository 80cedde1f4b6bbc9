"""Rule for the intervals of an evaluation: none below MIN_PROMPTS prompts, on every surface.

A sign test over n prompts has no p below 2^(1 - n), which is .016 for 7 prompts and .008 for 8, and
a bootstrap of so few values covers less than its nominal share. Evaluations store the interval for
any number of prompts; terminal, report, pages and MLflow read it here.
"""

import math
from collections.abc import Mapping, Sequence

MIN_PROMPTS = 8

Interval = tuple[float, float]


def num_prompts_of(values: Mapping[str, object], of_evaluation: int | None) -> int | None:
    """Return the prompts in which a metric is defined for both sides, else the evaluation's."""
    count = values.get("num_prompts")
    return count if isinstance(count, int) else of_evaluation


def is_enough(num_prompts: int | None) -> bool:
    """Return True where an interval over so many prompts is given; an unknown number is enough."""
    return num_prompts is None or num_prompts >= MIN_PROMPTS


def interval_of(values: Mapping[str, object], of_evaluation: int | None = None) -> Interval | None:
    """Return the interval of student minus base from a metric's row of a summary, or None."""
    interval = values.get("interval")
    if not isinstance(interval, Sequence) or len(interval) != 2:
        return None
    low, high = finite(interval[0]), finite(interval[1])
    if low is None or high is None or not is_enough(num_prompts_of(values, of_evaluation)):
        return None
    return low, high


def too_few(num_prompts: int | None) -> str:
    """Return the reason for no interval, or an empty text."""
    if is_enough(num_prompts):
        return ""
    return f"{num_prompts} prompt{'' if num_prompts == 1 else 's'}: too few for an interval"


def finite(value: object) -> float | None:
    """Return a finite number as a float; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
