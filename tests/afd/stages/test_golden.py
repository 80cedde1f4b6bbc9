"""A change that is not mathematics leaves the golden pocket round identical."""

import json
from pathlib import Path

import pytest

from tests.afd.stages import golden

# Between kinds of CPU the last bits of sums differ: after this round by 2e-5 of a value at most,
# Intel against AMD; the tolerance leaves room for instructions that neither has.
NEAR = 1e-2


def test_the_pocket_round_is_the_golden_one(tmp_path: Path) -> None:
    """To the last bit on the same kind of CPU with the same torch and numpy.

    After a change of the mathematics: `.venv/bin/python -m tests.afd.stages.golden`.
    """
    kept = json.loads(golden.FILE.read_text())
    numbers = golden.play(tmp_path)
    assert numbers.keys() == kept["numbers"].keys()
    is_same_machine = golden.machine() == kept["machine"]
    for name, values in numbers.items():
        wanted = kept["numbers"][name]
        assert is_near(values, wanted), f"{name}: {values}, golden {wanted}"
        if is_same_machine:
            assert values == wanted, f"{name}: not bit-identical on {golden.machine()}"


def is_near(values: list[float | None], wanted: list[float | None]) -> bool:
    """As on another kind of CPU; None, for a side that a metric does not have, stays None."""
    return len(values) == len(wanted) and all(
        got is expected
        if got is None or expected is None
        else got == pytest.approx(expected, rel=NEAR, abs=1e-4)
        for got, expected in zip(values, wanted, strict=True)
    )
