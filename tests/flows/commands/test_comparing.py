"""A comparison holds every number whole, in a wide terminal, a narrow one and a file."""

import io
import re

import pandas as pd
import pytest
from rich.console import Console

from afd.evaluation.comparison import Evaluation, compare
from flows.commands.comparing import difference_table

METRICS = ("trajectory_error_px", "gravity", "object_permanence", "frechet_distance")


def table(*, two_lines: bool) -> str:
    frames = [
        pd.DataFrame({"prompt_id": range(40), "noise_seed": 1})
        .assign(**{name: [seed + 0.001 * n * (n % 3) for n in range(40)] for name in METRICS})
        for seed in (1.5, 1.2)
    ]  # fmt: skip
    first, second = (Evaluation(name, {}, rows) for name, rows in zip("ab", frames, strict=True))
    rows = compare([first], [second], num_resamples=999)
    console = Console(file=io.StringIO(), width=80 if two_lines else 200)
    console.print(difference_table("a-long-name", "third", rows, two_lines=two_lines))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text))


def test_two_lines_a_row_fit_80_columns_and_hold_the_same_numbers() -> None:
    narrow, wide = table(two_lines=True), table(two_lines=False)
    assert max(len(line.rstrip()) for line in narrow.splitlines()) <= 80
    assert numbers(narrow) == numbers(wide)
    assert len(numbers(wide)) >= 4 * 5


@pytest.mark.parametrize("heading", ["difference", "interval", "p (Holm)", "prompts"])
def test_each_column_keeps_its_heading(heading: str) -> None:
    assert heading in table(two_lines=True) and heading in table(two_lines=False)
