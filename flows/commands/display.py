"""Table that a campaign ends with: metrics, and the verdict of every target."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from afd.evaluation.intervals import interval_of, is_enough, num_prompts_of
from flows.commands.numbers import short_number
from flows.record_files import SUMMARY, read_record

VERDICT_STYLE = {"pass": "green", "fail": "bold red", "not estimable": "yellow"}


def results_table(summary: Path) -> RenderableType:
    """Return a table of teacher, base and student by metric, over one of the targets.

    Raises StoreError for a file of another shape.
    """
    content = read_record(summary, SUMMARY)
    table = _metrics_table(content)
    if "targets" not in content:  # left by earlier code; `afd campaign` adds them
        return table
    return Group(table, Text(), _targets_table(content["targets"]))


def _metrics_table(content: Mapping[str, Any]) -> Table:
    """Return teacher, base, student, difference and interval of every metric."""
    seeds = ", ".join(map(str, content.get("noise_seeds", ())))
    title = f"held-out prompts: {content.get('num_prompts', '?')}   noise seeds: {seeds}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True)
    for name in ("teacher", "base", "student", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(
        "interval", justify="right"
    )  # the one that a narrow window breaks, at its blank
    for name, row in content["metrics"].items():
        interval = _interval(row, content.get("num_prompts"))
        cells = [short_number(row.get(key)) for key in ("teacher", "base", "student", "difference")]
        table.add_row(name, *cells, Text(interval))
    return table


def _interval(row: Mapping[str, Any], num_prompts: int | None) -> str:
    if interval := interval_of(row, num_prompts):
        return f"[{interval[0]:.2g}, {interval[1]:.2g}]"
    is_known = is_enough(num_prompts_of(row, num_prompts))
    return "not estimable" if is_known else "too few prompts"


def _targets_table(targets: Sequence[Mapping[str, Any]]) -> Table:
    """Return verdict, measured number and limit of every target."""
    table = Table(title="targets", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("metric", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("measured", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("judged by")
    for target in targets:
        verdict = Text(target["verdict"], style=VERDICT_STYLE.get(target["verdict"], ""))
        numbers = (short_number(target["value"]), short_number(target["limit"]))
        table.add_row(target["name"], verdict, *numbers, target["rule"])
    return table
