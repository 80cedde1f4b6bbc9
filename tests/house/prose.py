"""Docstring openings and identifiers, checked on the syntax tree: `python -m tests.house.prose`.

ruff's D401 holds the imperative mood of functions; this holds what no linter knows.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
ROOMS = ("afd", "flows", "benchmarks", "evaluators")
OPENINGS = {"what", "who", "where", "whether", "whoever", "how", "which", "why", "when", "whose"}
# Words with many meanings: as a whole name, or as a part of one between underscores.
NAMES = {
    "told", "tell", "tells", "said", "say", "says", "asked", "ask", "asks", "kept", "shown",
    "standing", "settle", "settled", "judge", "desk", "clerk", "vault", "wants",
}  # fmt: skip
# Fields of params and of files that stores and campaigns keep: their names are part of the data.
STORED: set[str] = set()
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def problems(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and fault of each docstring opening and each defined name of a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Documented) and (docstring := ast.get_docstring(node)):
            opening = re.split(r"\W", docstring, maxsplit=1)[0]
            if opening.lower() in OPENINGS:
                yield node.body[0].lineno, f"a docstring opens with {opening!r}"
        for line, name in defined(node):
            if name not in STORED and NAMES & set(name.lower().split("_")):
                yield line, f"{name!r} is no name of this project"


def defined(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the names that a node defines."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.lineno, node.name
        case ast.arg():
            yield node.lineno, node.arg
        case ast.Name(ctx=ast.Store()):
            yield node.lineno, node.id
        case ast.alias(asname=str()):
            yield node.lineno, node.asname
        case _:
            return


def unfinished() -> list[str]:
    """Return the patterns of files that pyproject.toml excepts: the list only gets shorter."""
    table = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    return list(table["tool"]["afd"]["prose"]["unfinished"])


def main() -> int:
    """Print every fault outside the excepted rooms; return 1 where there is one."""
    excepted = {file for pattern in unfinished() for file in PROJECT.glob(pattern)}
    num_faults = 0
    for file in sorted(file for room in ROOMS for file in (PROJECT / room).rglob("*.py")):
        if file in excepted:
            continue
        for line, fault in problems(file.read_text()):
            print(f"{file.relative_to(PROJECT)}:{line}: {fault}")
            num_faults += 1
    return int(num_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
