"""Commands as a person can type them here: the program as it was called, its places as chosen."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def command(*arguments: str, runs: Path | None = None, store: Path | None = None) -> str:
    """`afd ARGUMENTS`, called as this process was; places only where they are not the default."""
    said = [*_program(), *arguments]
    for option, place in (("runs", runs), ("store", store)):
        if place is not None and place.resolve() != Path(option).resolve():
            said += [f"--{option}", near(place)]
    return shlex.join(said)


def near(path: Path) -> str:
    """The path from here, where that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)


def _program() -> list[str]:
    called = Path(sys.argv[0])
    if called.name == "cli.py":
        return [near(Path(sys.executable)), "-m", "flows.cli"]
    if called.name != "afd" or shutil.which("afd") == str(called):
        return ["afd"]
    return [near(called)]
