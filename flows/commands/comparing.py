"""`afd compare A B ...`: paired differences between finished campaigns, refused across cards."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from afd.evaluation.comparison import Difference, Evaluation, compare
from afd.evaluation.intervals import is_enough
from afd.evaluation.metric_specs import metric_spec
from afd.evaluation.readings import show
from afd.evaluation.results import CellResult
from afd.runtime.outcome import RefusedError
from afd.store import Store
from flows.command_text import command
from flows.commands.consoles import console
from flows.commands.json_output import Document, print_document
from flows.commands.status import campaigns_in, known_campaign
from flows.paths import CampaignPaths
from flows.round_files import read_round

NEEDED = (
    "Student rollouts until the trajectory error of the look after a round first reaches a level, "
    "linear between rounds; from the least to the most over training seeds, each of which draws "
    "the held-out prompts of that look anew."
)
LONGER = (
    "Trajectory error (px) on clips longer than any that was trained on, a block of 4 frames "
    "a column; the student goes on with its cache. Last: permanence on the long clips and on those "
    "of the trained length."
)
LONG = (
    "Three times the steps at a constant learning rate, with a discriminator that is refitted in "
    "every round (`afd_long`) and one that never is (`frozen_long`). Scores are their own. "
    "Hacked: at the end the error lies a tenth above its least, and the score has not fallen."
)
UNPLAYED = (
    "params/grid.yaml asks for these cells and they have no result here: neither done nor failed. "
    "`dvc repro` plays them."
)
WINS = (
    "Motion is judged by the paired difference of the trajectory error (Holm over metrics, 5 %), "
    "the look by the distance from the base's own, which has no paired interval. One training seed "
    "in all worlds but the pocket one. Why: docs/ablations.md."
)


def evaluation(campaign: str, paths: CampaignPaths) -> Evaluation:
    """Return the final evaluation of a campaign's student; raises RefusedError without one."""
    made = read_round(known_campaign(campaign, paths.runs) / "rounds" / "final.json")
    store = Store(paths.store)
    if made is None or not store.have(made["evaluation"]):
        raise RefusedError(
            f"campaign {campaign!r} has no final evaluation in {paths.store}\n"
            f"  {command('campaign', campaign, runs=paths.runs, store=paths.store)}"
            "    goes on with it"
        )
    evaluation = store.load(made["evaluation"])
    rows = pd.read_parquet(evaluation.file("per_prompt.parquet"))
    card = json.loads(evaluation.file("card.json").read_bytes())
    return Evaluation(campaign, card, rows.loc[rows["side"] == "student"].drop(columns="side"))


def differences(
    first: str, others: Sequence[str], paths: CampaignPaths
) -> dict[str, Sequence[Difference]]:
    """Return every metric of each of `others` minus `first`; raises RefusedError or CardError."""
    if not others:
        raise RefusedError(_lacks_another(first, paths.runs))
    reference = evaluation(first, paths)
    rivals = [evaluation(other, paths) for other in others]
    return {rival.name: compare([reference], [rival]) for rival in rivals}


def print_comparison(
    first: str, others: Sequence[str], runs: Path, store: Path, *, as_json: bool = False
) -> None:
    """Print the comparison as tables, no number cut, or as JSON.

    In a terminal that is too narrow, interval and prompts stand below difference and p.
    """
    paths = CampaignPaths(runs, store)
    if as_json:
        print_document(compare_document(first, differences(first, others, paths)))
        return
    out = console(None)
    for second, rows in differences(first, others, paths).items():
        wide = difference_table(first, second, rows)
        needed = Console(width=1000).measure(wide).maximum
        if out.width >= needed or not out.is_terminal:
            Console(width=max(out.width, needed), markup=False).print(wide)
        else:
            out.print(difference_table(first, second, rows, two_lines=True))


def _lacks_another(first: str, runs: Path) -> str:
    """Return what a comparison with nothing lacks, and which campaigns could be taken."""
    finished = [one.name for one in campaigns_in(runs) if (one / "summary.json").exists()]
    others = [name for name in finished if name != first]
    example = command("compare", first, others[-1] if others else "OTHER", runs=runs)
    there = ", ".join(others) or "none yet"
    return f"{first} is compared with nothing: name another finished campaign, e.g. {example}\n" + (
        f"  finished in {runs}: {there}"
    )


def difference_table(
    first: str, second: str, rows: Sequence[Difference], *, two_lines: bool = False
) -> Table:
    """Return a row a metric; with `two_lines` each takes two lines and fits 80 columns."""
    prompts = max((row.paired.num_prompts for row in rows), default=0)
    table = Table(
        title=f"{second} minus {first}, paired over {prompts} prompts",
        title_justify="left", box=None, padding=(0, 2, 0, 0),
    )  # fmt: skip
    table.add_column("metric", no_wrap=not two_lines)
    columns = [first, second, "difference", "interval", "p (Holm)", "prompts"]
    for name in _joined(columns, two_lines):
        table.add_column(name, justify="right", no_wrap=not two_lines)
    for row in rows:
        paired = row.paired
        interval = "not estimable"
        if row.interval is not None:
            interval = f"{show(row.interval[0])} to {show(row.interval[1])}"
        elif not is_enough(paired.num_prompts):
            interval = "too few prompts"
        p = "\u2013" if row.p_holm is None else f"{row.p_holm:.3g}"
        dropped = f" (+{paired.num_dropped} dropped)" if paired.num_dropped else ""
        cells = [
            show(row.first), show(row.second), show(paired.mean),
            interval, p, f"{paired.num_prompts}{dropped}",
        ]  # fmt: skip
        table.add_row(
            metric_spec(row.metric).title, *_joined(cells, two_lines),
            style="bold" if row.is_clear else "",
        )  # fmt: skip
    return table


def _joined(cells: list[str], two_lines: bool) -> list[str]:
    """Return the cells; with `two_lines` interval and prompts stand below difference and p."""
    if not two_lines:
        return cells
    first, second, difference, interval, p, prompts = cells
    return [first, second, f"{difference}\n{interval}", f"{p}\n{prompts}"]


def write_results(
    results: Path, page: Path, seeds: Sequence[int] = ()
) -> tuple[list[CellResult], list[str]]:
    """Write the ablation table and its pictures from the cells' files.

    Return the cells, and the names of those that are not played. Raises RefusedError for no cells.
    """
    from afd.evaluation import charts, findings
    from afd.evaluation.results import CLAIMED_SEEDS, load_cells, table

    wanted = _grid_cells(seeds)
    cells = load_cells(results, wanted)
    if not cells:
        raise RefusedError(f"{results}/arms holds no results; `dvc repro` makes them")
    pictures = page.parent / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    stem = page.stem
    curves = results / "curves"
    (pictures / f"{stem}-arms.png").write_bytes(charts.dots_chart(cells))
    (pictures / f"{stem}-curves.png").write_bytes(charts.curves_chart(cells, curves))
    parts: list[str] = []
    if needed := findings.efficiency(cells, curves):
        parts += ["## Rollouts that an error takes", "", NEEDED, "", *needed, ""]
    if longer := findings.horizon(cells):
        (pictures / f"{stem}-horizon.png").write_bytes(charts.drift_chart(cells))
        parts += ["## Longer clips", "", LONGER, "", *longer, ""]
        parts += [f"![Block by block](images/{stem}-horizon.png)", ""]
    if scores := findings.long_schedule(cells, curves):
        (pictures / f"{stem}-long.png").write_bytes(charts.long_chart(cells, curves))
        parts += ["## A long schedule", "", LONG, "", *scores, ""]
        parts += [f"![Score and error](images/{stem}-long.png)", ""]
    if wins := findings.best_by_world(cells):
        parts += ["## Who wins where", "", WINS, "", *wins, ""]
    if unplayed := sorted(wanted - {cell.name for cell in cells}):
        parts += ["## Not played yet", "", UNPLAYED, "", ", ".join(f"`{n}`" for n in unplayed), ""]
    page.write_text(
        "# Ablations of the pocket world\n\n"
        "Made by `dvc repro` from results/; how to read it: docs/ablations.md. Levels are means "
        "over training seeds (least to most); differences are paired by prompt with 95 % "
        "bootstrap intervals, bold where the interval excludes 0, Holm's p over the metrics is at "
        f"most .05 and {CLAIMED_SEEDS} training seeds stand behind it: what one seed shows may be "
        "another's chance.\n\n"
        f"![Every arm, a dot a training seed](images/{stem}-arms.png)\n\n"
        f"![Round by round](images/{stem}-curves.png)\n\n## Arms\n\n{table(cells)}\n"
        + "\n".join(parts).rstrip()
        + "\n"
    )
    return cells, unplayed


def _grid_cells(seeds: Sequence[int]) -> set[str]:
    """Return the names of the grid's cells; with `seeds` those of its main arms alone."""
    from flows.ablations import every_cell, group

    if seeds:
        return {cell.name for seed in seeds for cell in group("main", seed)}
    return {cell.name for cell in every_cell()}


def compare_document(first: str, rows: Mapping[str, Sequence[Difference]]) -> Document:
    """Return `afd compare --json`: by rival, each metric as rival minus first."""
    return {
        "first": first,
        "comparisons": [
            {
                "second": second,
                "metrics": [
                    {
                        "metric": row.metric,
                        "first": row.first,
                        "second": row.second,
                        "difference": row.paired.mean,
                        "low": row.interval[0] if row.interval else None,
                        "high": row.interval[1] if row.interval else None,
                        "p_holm": row.p_holm,
                        "num_prompts": row.paired.num_prompts,
                        "num_dropped": row.paired.num_dropped,
                        "is_clear": row.is_clear,
                    }
                    for row in differences
                ],
            }
            for second, differences in rows.items()
        ],
    }


def table_document(page: Path, cells: Sequence[CellResult], unplayed: Sequence[str]) -> Document:
    """Return `afd ablation table --json`: what the page is made from."""
    return {
        "page": str(page),
        "cells": [
            {
                "name": cell.name,
                "arm": cell.arm,
                "world": cell.world,
                "seed": cell.seed,
                "status": cell.status,
                "base": dict(cell.base),
                "student": dict(cell.student),
            }
            for cell in cells
        ],
        "unplayed": list(unplayed),
    }
