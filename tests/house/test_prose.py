"""The prose check finds what it is for, and its exceptions exist."""

from tests.house.prose import PROJECT, problems, unfinished

MODULE = '''"""What a module is not."""

from afd import artifacts as told
from afd.stages import request


class Standing:
    """A noun phrase."""

    def said(self, asked: int) -> int:
        """Whether it was."""
        kept_params = asked
        return kept_params


def score(rows: int) -> int:
    """Return the score; what it means stands beside it."""
    return rows
'''


def test_openings_and_names_are_found_by_line() -> None:
    found = sorted(problems(MODULE))
    assert [line for line, _ in found] == [1, 3, 7, 10, 10, 11, 12]
    assert found[0][1] == "a docstring opens with 'What'"


def test_every_exception_exists() -> None:
    assert [pattern for pattern in unfinished() if not any(PROJECT.glob(pattern))] == []
