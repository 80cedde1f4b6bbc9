"""The class of an error decides: words for a person, or a traceback."""

import ast
from pathlib import Path

import pytest

from afd.attempts import BusyError, LostError, StoreError
from afd.errors import EXIT_CODE, Status, UserError
from afd.params import ParamsError
from afd.runtime.outcome import RefusedError, StoppedError, status_of

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RefusedError(""), "refused"),
        (ParamsError("params.yaml", ["seed"]), "refused"),
        (StoreError(""), "store"),
        (BusyError(""), "busy"),
        (LostError(""), "lost"),
        (StoppedError(""), "stopped"),
        (OSError(28, "No space left on device"), "store"),
        (OSError(13, "Permission denied"), "failed"),
        (ValueError(""), "failed"),  # a bug
    ],
)
def test_each_class_has_its_status(error: Exception, status: Status) -> None:
    assert status_of(error) == status


def test_each_status_has_an_exit_code_of_its_own() -> None:
    assert len(set(EXIT_CODE.values())) == len(EXIT_CODE)


def test_no_class_of_ours_is_a_bare_value_error() -> None:
    """A class is for a person (InputError), or it is none of ValueError's."""
    bare: list[str] = []
    for file in [*PROJECT.glob("afd/**/*.py"), *PROJECT.glob("flows/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and [ast.unparse(one) for one in node.bases] == [
                "ValueError"
            ]:
                bare.append(f"{file.relative_to(PROJECT)}: {node.name}")
    assert not bare
    assert issubclass(UserError, Exception) and not issubclass(UserError, ValueError)
