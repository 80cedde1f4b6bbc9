"""`afd ablation reproduced`: the numbers of a grid played anew against those of a commit."""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from afd.evaluation.readings import meaning, show
from afd.evaluation.reproduction import TOLERANCES, Reproduction, reproduction
from afd.evaluation.results import CellResult
from afd.stages.outcome import RefusedError
from flows.commands.json_output import Document, print_document

WIDTH = 110  # of the table, also where no terminal tells its own


def say_reproduced(results: Path, revision: str, *, as_json: bool = False) -> bool:
    """Print what is equal, what another CPU explains and what it does not; False for the last.

    Raises RefusedError for a revision without results.
    """
    folder = results / "arms"
    found = reproduction(_committed(folder, revision), _here(folder))
    if as_json:
        print_document(reproduced_document(found, revision))
        return not found.outside and not found.unlike
    console = Console(highlight=False, width=WIDTH)
    console.print(_table(found))
    cells, equal = len(found.cells), len(found.equal_cells)
    console.print(f"{cells} cells: {equal} equal to the last bit in every number")
    for told in found.unlike:
        console.print(f"not compared  {told}", style="yellow")
    for one in found.outside:
        was, now = show(one.committed), show(one.here)
        told = f"{one.cell}, {one.side}: {one.metric} is {now}, committed {was}"
        console.print(f"OUTSIDE  {told}", style="bold red")
    return not found.outside and not found.unlike


def _table(found: Reproduction) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("metric", no_wrap=True)
    for name in ("equal", "within", "outside", "largest", "tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("where", no_wrap=True)
    for metric, tolerance in TOLERANCES.items():
        rows = found.of(metric)
        equal = sum(one.size == 0 for one in rows)
        outside = sum(not one.is_within for one in rows)
        largest = rows[0] if rows and rows[0].size else None
        table.add_row(
            meaning(metric).title, f"{equal}", f"{len(rows) - equal - outside}", f"{outside}",
            show(largest.size) if largest else "0", show(tolerance),
            f"{largest.cell}, {largest.side}" if largest else "",
        )  # fmt: skip
    return table


def _committed(folder: Path, revision: str) -> list[CellResult]:
    """The cells of a commit."""
    names = _git("ls-tree", "--name-only", revision, f"{folder}/").split()
    files = [name for name in names if name.endswith(".json")]
    if not files:
        raise RefusedError(f"{revision} has no results in {folder}: name a commit that has")
    return [CellResult(**json.loads(_git("show", f"{revision}:./{name}"))) for name in files]


def _here(folder: Path) -> list[CellResult]:
    return [CellResult(**json.loads(file.read_bytes())) for file in sorted(folder.glob("*.json"))]


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    except FileNotFoundError:
        raise RefusedError("git is not here, and only it knows the committed numbers") from None
    except subprocess.CalledProcessError as error:
        raise RefusedError(f"git {' '.join(arguments)}: {error.stderr.strip()}") from None
    return done.stdout


def reproduced_document(found: Reproduction, against: str) -> Document:
    """Return `afd ablation reproduced --json`."""
    return {
        "against": against,
        "cells": found.cells,
        "equal_cells": found.equal_cells,
        "not_compared": list(found.unlike),
        "deviations": [
            asdict(one) | {"size": one.size, "is_within": one.is_within}
            for one in found.deviations
            if one.size > 0
        ],
    }
