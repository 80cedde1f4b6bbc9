"""Parts of a campaign that live in another installed package, named `package.module:function`.

The source of that package is part of the identity of all that the part makes: with another source
the stage runs again. Imports no torch.
"""

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from afd.errors import InputError


class PluginError(InputError):
    """A plugin that is not installed, or that is not what its field needs."""


def source_sha256(field: str, factory: str) -> str:
    """Return the sha256 of every Python file of the package that `factory` is in.

    Nothing of the package is imported. Raises PluginError naming `field`.
    """
    package = factory.partition(":")[0].partition(".")[0]
    files = dict(_source_files(package))
    if not files:
        raise PluginError(
            f"{field}: no Python package {package} is installed here; install it into this "
            f"environment (pip install -e FOLDER), on every node, or correct {field}"
        )
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{hashlib.sha256(files[name].read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def load_factory(field: str, factory: str) -> Callable[..., Any]:
    """Import and return the function; raises PluginError naming `field`."""
    module, _, name = factory.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise PluginError(
            f"{field}: {module} cannot be imported: {type(error).__name__}: {error}; correct it, "
            f"or correct {field}"
        ) from error
    if not callable(found):
        raise PluginError(f"{field}: {module} has no function {name}; correct {field}")
    return found


def check_members(field: str, factory: str, part: object, members: tuple[str, ...]) -> None:
    """Raise PluginError unless `part`, made by `factory`, has these members."""
    if missing := [name for name in members if not hasattr(part, name)]:
        raise PluginError(
            f"{field}: {factory} returned {type(part).__name__} without {', '.join(missing)}; "
            "docs/extending.md shows what it needs"
        )


def _source_files(package: str) -> Iterator[tuple[str, Path]]:
    """Yield name and path of every Python file of an installed package; none: not installed."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module that was run as a script
        return
    if spec is None:
        return
    for place in spec.submodule_search_locations or ():
        for file in Path(place).rglob("*.py"):
            yield file.relative_to(place).as_posix(), file
    file = Path(spec.origin or "")
    if spec.submodule_search_locations is None and file.is_file():
        yield file.name, file
