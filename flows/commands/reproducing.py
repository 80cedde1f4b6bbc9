"""`afd ablation reproduced`: the numbers of a grid played anew against those of a commit."""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from afd.evaluation.metric_specs import TOLERANCES, metric_spec
from afd.evaluation.readings import show
from afd.evaluation.reproduction import Reproduction, reproduction
from afd.evaluation.results import CellResult
from afd.runtime.outcome import RefusedError
from flows.ablations import every_cell, result_here
from flows.command_text import sibling_program
from flows.commands.json_output import Document, print_document
from flows.paths import CampaignPaths

WIDTH = 110  # of the table, also without a terminal


def print_reproduced(
    results: Path, revision: str, paths: CampaignPaths, *, as_json: bool = False
) -> bool:
    """Print equal cells and deviations within and outside tolerance; True without any outside.

    The tolerance is that of another CPU. Raises RefusedError for a revision without results.
    """
    found = held_against(results, revision, paths)
    if as_json:
        print_document(reproduced_document(found, revision))
        return found.is_reproduced
    console = Console(highlight=False, markup=False, width=WIDTH)
    if found.cells:
        console.print(_table(found))
    for line in summary(found):
        console.print(line, soft_wrap=True)
    for line in found.unlike:
        console.print(f"not compared  {line}", style="yellow", soft_wrap=True)
    for one in found.outside:
        was, now = show(one.committed), show(one.here)
        line = f"{one.cell}, {one.side}: {one.metric} is {now}, committed {was}"
        console.print(f"OUTSIDE  {line}", style="bold red", soft_wrap=True)
    return found.is_reproduced


def held_against(results: Path, revision: str, paths: CampaignPaths) -> Reproduction:
    """Compare the results of a commit with those of the cells that ran here.

    The store has the numbers of what ran here; files in `results` may be those of the commit
    itself. Raises RefusedError for a revision without results.
    """
    committed = _committed(results / "arms", revision)
    names = {one.name for one in committed}
    cells = [cell for cell in every_cell() if cell.name in names] if _exists(paths) else []
    here = (result_here(cell, paths) for cell in cells)
    return reproduction(committed, (one for one in here if one is not None))


def _exists(paths: CampaignPaths) -> bool:
    """Return whether anything ran here, without creating a store."""
    return paths.store.is_dir()


def summary(found: Reproduction) -> list[str]:
    """Return lines that count the cells that ran here, the equal ones and those that never ran."""
    lines: list[str] = []
    if found.cells:
        ran, equal = len(found.cells), len(found.equal_cells)
        lines.append(f"run here: {ran}, equal to the last bit in every number: {equal}")
    if found.not_run:
        lines.append(f"not run here: {len(found.not_run)}")
    if not found.cells:
        plays = f"{sibling_program('dvc')} repro quick"
        lines.append(f"nothing to compare: no cell of the grid ran here; `{plays}` runs seven")
    return lines


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
            metric_spec(metric).title, f"{equal}", f"{len(rows) - equal - outside}", f"{outside}",
            show(largest.size) if largest else "0", str(tolerance),
            f"{largest.cell}, {largest.side}" if largest else "",
        )  # fmt: skip
    return table


def _committed(folder: Path, revision: str) -> list[CellResult]:
    """Return the cells of a commit; raises RefusedError for a commit without any."""
    names = _git("ls-tree", "--name-only", revision, f"{folder}/").split()
    files = [name for name in names if name.endswith(".json")]
    if not files:
        raise RefusedError(f"{revision} has no results in {folder}: name a commit that has")
    return [CellResult(**json.loads(_git("show", f"{revision}:./{name}"))) for name in files]


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
        "not_run": list(found.not_run),
        "is_reproduced": found.is_reproduced,
        "tolerances": {metric: str(one) for metric, one in TOLERANCES.items()},
        "not_compared": list(found.unlike),
        "deviations": [
            asdict(one) | {"size": one.size, "is_within": one.is_within}
            for one in found.deviations
            if one.size > 0
        ],
    }
