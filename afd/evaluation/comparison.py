"""Differences between any two sets of evaluations, paired by prompt, refused across cards.

A set is one arm: one evaluation a training seed. Inside a prompt the differences of noise seeds and
training seeds are averaged; prompts are what the bootstrap draws from (afd.evaluation.statistics
says why).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from afd import seeds
from afd.evaluation.readings import MAX_CHANCE, show
from afd.evaluation.statistics import Estimate, by_prompt, holm, mean_of, mean_over_prompts

IDENTIFIERS = ("prompt_id", "prompt", "noise_seed", "failed", "side")


class CardError(ValueError):
    """Evaluations that do not measure the same thing: which fields differ."""


@dataclass(frozen=True)
class Judged:
    """One finished evaluation: who, under which card, a row a prompt and noise seed."""

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
        """Whether the interval excludes 0, and not by chance over all metrics."""
        beyond = self.p_holm is not None and self.p_holm <= MAX_CHANCE
        return beyond and self.paired.excludes_zero

    def __str__(self) -> str:
        low, high = self.paired.low, self.paired.high
        if low is None or high is None:
            return f"{show(self.paired.mean)} (not estimable)"
        return f"{show(self.paired.mean)} [{show(low)}, {show(high)}]"


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Fields in which two cards differ: what was measured, and on what."""
    return [
        key for key in sorted(first.keys() | second.keys()) if first.get(key) != second.get(key)
    ]


def check_cards(judged: Sequence[Judged]) -> None:
    """Raise CardError unless all were measured in the same way, on the same prompts and noise."""
    reference = judged[0]
    problems: list[str] = []
    for other in judged[1:]:
        problems += [
            f"{key}: {reference.name} has {reference.card.get(key)!r}, {other.name} has "
            f"{other.card.get(key)!r}"
            for key in differing(reference.card, other.card)
        ]
    if problems:
        shown = "\n".join(f"  - {problem}" for problem in problems)
        raise CardError(
            f"not comparable: the evaluations' cards differ in {len(problems)} place(s)\n{shown}\n"
            "  nothing was compared; evaluate them under the same params and code"
        )


def compare(
    first: Sequence[Judged],
    second: Sequence[Judged],
    num_resamples: int = 9999,
    confidence: float = 0.95,
) -> list[Difference]:
    """Every metric that both arms have, second minus first; raises CardError.

    `first[i]` and `second[i]` share their training seed: an answer is compared with the one that
    the other arm gives to the same prompt with the same noise after the same start. Where either
    has no value the pair is dropped; what is left is averaged inside a prompt.
    """
    check_cards([*first, *second])
    names = [name for name in first[0].table.columns if name not in IDENTIFIERS]
    common = [name for name in names if all(name in one.table for one in (*first, *second))]
    found: dict[str, tuple[float | None, float | None, Estimate]] = {}
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
        found[name] = (levels[0], levels[1], mean_over_prompts(differences, *draw))
    adjusted = holm({name: paired.p_value for name, (*_, paired) in found.items()})
    return [
        Difference(name, before, after, paired, adjusted[name])
        for name, (before, after, paired) in found.items()
    ]


def _answers(judged: Judged, metric: str) -> pd.Series:
    """One metric by prompt and noise seed."""
    column = judged.table.set_index(["prompt_id", "noise_seed"])[metric].astype(float)
    return cast(pd.Series, column)
