"""Text of commands for a person to type: program and folders as this process has them."""

import os
import shlex
import shutil
import sys
from pathlib import Path

# Defaults of the options.
RUNS, STORE, CLUSTER = Path("runs"), Path("store"), Path("params/cluster/local.yaml")


def command(
    *arguments: str,
    runs: Path | None = None,
    store: Path | None = None,
    cluster: Path | None = None,
) -> str:
    """Return `afd ARGUMENTS` as this process was called, with the folders that are not defaults."""
    words = [*_program(), *arguments]
    paths = {"runs": (runs, RUNS), "store": (store, STORE), "cluster": (cluster, CLUSTER)}
    for option, (place, default) in paths.items():
        if place is not None and place.resolve() != default.resolve():
            words += [f"--{option}", short_path(place)]
    return shlex.join(words)


def sibling_program(program: str) -> str:
    """Return another program of this Python, as it can be typed here."""
    ours = Path(sys.executable).with_name(program)
    return program if shutil.which(program) == str(ours) else shlex.quote(short_path(ours))


def short_path(path: Path) -> str:
    """Return the path from here, where that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)


def _program() -> list[str]:
    called = Path(sys.argv[0])
    if called.name == "cli.py":
        return [short_path(Path(sys.executable)), "-m", "flows.cli"]
    if called.name != "afd":  # a process that nobody typed: Prefect's engine, a helper
        called = Path(sys.executable).with_name("afd")
    is_found = shutil.which("afd") == str(called) or not called.exists()
    return ["afd"] if is_found else [short_path(called)]
