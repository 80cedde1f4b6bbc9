"""A change that is not mathematics leaves the golden pocket round identical."""

from pathlib import Path

from tests.afd.stages import golden


def test_the_pocket_round_is_the_golden_one(tmp_path: Path) -> None:
    """To the last bit on a kind of CPU that has its round, with one torch and numpy; else near.

    After a change of the mathematics: `.venv/bin/python -m tests.afd.stages.golden`.
    """
    numbers, machine = golden.play(tmp_path), golden.machine()
    rounds = golden.rounds()
    for kept in rounds:
        assert golden.is_near(numbers, kept["numbers"]), f"not as on {kept['machine']}"
    for kept in rounds:
        if kept["machine"] == machine:
            moved = [name for name in numbers if numbers[name] != kept["numbers"][name]]
            assert not moved, f"not bit-identical on {machine}: {', '.join(moved)}"


def test_another_cpu_is_near_and_a_change_is_not() -> None:
    (first, *others) = golden.rounds()
    numbers: golden.Numbers = first["numbers"]
    assert others and all(golden.is_near(other["numbers"], numbers) for other in others)
    (loss,) = numbers["warmstart/loss"]
    changes: list[list[float | None]] = [[None], [1.02 * (loss or 0.0)], []]
    for changed in changes:
        assert not golden.is_near({**numbers, "warmstart/loss": changed}, numbers)
