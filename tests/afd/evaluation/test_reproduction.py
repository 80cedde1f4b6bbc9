"""Numbers of two clones, where it is known what differs."""

from dataclasses import replace
from math import nan

import pytest

from afd.evaluation.metric_specs import TOLERANCES
from afd.evaluation.reproduction import reproduction
from afd.evaluation.results import COLUMNS, DONE, FAILED, CellResult

LEVELS: dict[str, float | None] = dict.fromkeys(TOLERANCES, 0.5)
CELL = CellResult("afd-1", "afd", None, 1, DONE, student=LEVELS, base=LEVELS, card={"split": "a"})


def moved(metric: str, by: float | None) -> CellResult:
    value = None if by is None else 0.5 + by
    return replace(CELL, student=LEVELS | {metric: value})


def test_every_metric_of_the_table_has_a_tolerance() -> None:
    assert set(TOLERANCES) == set(COLUMNS)


def test_equal_numbers_are_equal_and_one_bit_is_seen() -> None:
    found = reproduction([CELL], [replace(CELL)])
    assert found.equal_cells == ["afd-1"] and not found.outside and not found.unlike
    found = reproduction([CELL], [moved("gravity", 1e-17)])
    assert found.equal_cells == ["afd-1"]  # less than half a unit in the last place: the same
    found = reproduction([CELL], [moved("gravity", 1.2e-16)])
    assert found.equal_cells == [] and not found.outside


@pytest.mark.parametrize("metric", sorted(TOLERANCES))
def test_more_than_its_tolerance_lies_outside(metric: str) -> None:
    for share, is_outside in ((0.9, False), (2.0, True)):
        allowed = TOLERANCES[metric].allowed(LEVELS[metric])
        found = reproduction([CELL], [moved(metric, share * allowed)])
        assert bool(found.outside) == is_outside and found.is_reproduced != is_outside
        assert found.of(metric)[0].used == pytest.approx(share)
        assert found.of(metric)[0].size == pytest.approx(share * allowed)


@pytest.mark.parametrize("lost", [None, nan])
def test_a_number_that_one_of_them_lacks_lies_outside(lost: float | None) -> None:
    gone = replace(CELL, student=LEVELS | {"gravity": lost})
    assert [one.metric for one in reproduction([CELL], [gone]).outside] == ["gravity"]
    assert [one.metric for one in reproduction([gone], [CELL]).outside] == ["gravity"]
    assert not reproduction([gone], [gone]).outside


def test_what_cannot_be_compared_is_told_and_not_taken_for_equal() -> None:
    others = [
        replace(CELL, name="gan-1", status=FAILED),
        replace(CELL, name="sft-1", card={"split": "b"}),
    ]
    committed = [replace(CELL, name=name) for name in ("gan-1", "sft-1", "dmd-1")]
    found = reproduction(committed, others)
    assert found.unlike == (
        "gan-1: done as committed, failed here",
        "sft-1: judged by another card (split)",
    )
    assert found.not_run == ("dmd-1",)
    assert found.cells == [] and found.equal_cells == []


def test_nothing_that_ran_here_reproduces_nothing() -> None:
    found = reproduction([CELL], [])
    assert found.not_run == ("afd-1",) and not found.unlike and not found.is_reproduced
    other = replace(CELL, name="sft-1")
    assert reproduction([CELL, other], [other]).is_reproduced  # of what ran here


def test_a_tolerance_is_one_rule_and_prints_as_it_is_applied() -> None:
    look = TOLERANCES["frechet_distance"]
    assert str(look) == "0.1 + 10% of it" and look.allowed(60.0) == pytest.approx(6.1)
    assert str(TOLERANCES["gravity"]) == "0.015" and TOLERANCES["gravity"].allowed(60.0) == 0.015
    assert look.allowed(None) == look.allowed(nan) == 0.1
