"""Differences between any two sets of evaluations, paired by prompt, refused across cards.

A set is one arm: one evaluation a training seed. Inside a prompt the differences of noise seeds and
training seeds are averaged; prompts are what the bootstrap draws from (reasons:
afd/evaluation/statistics.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from afd import seeds
from afd.errors import InputError
from afd.evaluation.intervals import Interval, is_enough
from afd.evaluation.readings import MAX_CHANCE, show
from afd.evaluation.statistics import Estimate, by_prompt, holm, mean_of, mean_over_prompts

IDENTIFIERS = ("prompt_id", "prompt", "noise_seed", "failed", "side")


class CardError(InputError):
    """Evaluations under different cards cannot be compared; the message has the fields."""


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation: its name, its card, and a row a prompt and noise seed."""

    name: str
    card: Mapping[str, Any]
    table: pd.DataFrame  # of the student's side


@dataclass(frozen=True)
class Difference:
    """One metric of two arms. `p_holm` is adjusted over the metrics of the comparison."""

    metric: str
    first: float | None
    second: float | None
    paired: Estimate  # second minus first
    p_holm: float | None

    @property
    def is_clear(self) -> bool:
        """True where the interval excludes 0 and Holm's p over all metrics is small."""
        beyond = self.p_holm is not None and self.p_holm <= MAX_CHANCE
        return beyond and self.interval is not None and self.paired.excludes_zero

    @property
    def interval(self) -> Interval | None:
        """Interval of the difference; None where it is not estimable or of too few prompts."""
        low, high = self.paired.low, self.paired.high
        if low is None or high is None or not is_enough(self.paired.num_prompts):
            return None
        return low, high

    def __str__(self) -> str:
        if self.interval is None:
            return f"{show(self.paired.mean)} (not estimable)"
        low, high = self.interval
        return f"{show(self.paired.mean)} [{show(low)}, {show(high)}]"


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the fields in which two cards differ."""
    return [
        key for key in sorted(first.keys() | second.keys()) if first.get(key) != second.get(key)
    ]


def check_cards(evaluations: Sequence[Evaluation]) -> None:
    """Raise CardError unless all were measured in the same way, on the same prompts and noise."""
    reference = evaluations[0]
    problems: list[str] = []
    for other in evaluations[1:]:
        problems += [
            f"{key}: {reference.name} has {reference.card.get(key)!r}, {other.name} has "
            f"{other.card.get(key)!r}"
            for key in differing(reference.card, other.card)
        ]
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise CardError(
            f"not comparable: the evaluations' cards differ in {len(problems)} place(s)\n{listed}\n"
            "  nothing was compared; evaluate them under the same params and code"
        )


def compare(
    first: Sequence[Evaluation],
    second: Sequence[Evaluation],
    num_resamples: int = 9999,
    confidence: float = 0.95,
) -> list[Difference]:
    """Return the difference, second minus first, of every metric that both arms have.

    `first[i]` and `second[i]` share their training seed: values are paired by prompt, noise and
    start. A pair in which either has no value is dropped; the others are averaged inside a prompt.
    Raises CardError.
    """
    check_cards([*first, *second])
    names = [name for name in first[0].table.columns if name not in IDENTIFIERS]
    common = [name for name in names if all(name in one.table for one in (*first, *second))]
    measured: dict[str, tuple[float | None, float | None, Estimate]] = {}
    for name in common:
        both = pd.concat(
            pd.DataFrame({"first": _answers(a, name), "second": _answers(b, name)})
            for a, b in zip(first, second, strict=True)
        )
        ids = both.index.get_level_values("prompt_id").tolist()
        shared = both.where(both.notna().all(axis="columns"))  # levels differ by the difference
        levels = [mean_of(by_prompt(ids, shared[side].tolist())) for side in ("first", "second")]
        differences = by_prompt(ids, (both["second"] - both["first"]).tolist())
        draw = (seeds.derive(0, "compare", name), num_resamples, confidence)
        measured[name] = (levels[0], levels[1], mean_over_prompts(differences, *draw))
    adjusted = holm({name: paired.p_value for name, (*_, paired) in measured.items()})
    return [
        Difference(name, before, after, paired, adjusted[name])
        for name, (before, after, paired) in measured.items()
    ]


def _answers(evaluations: Evaluation, metric: str) -> pd.Series:
    """Return one metric by prompt and noise seed."""
    column = evaluations.table.set_index(["prompt_id", "noise_seed"])[metric].astype(float)
    return cast(pd.Series, column)
