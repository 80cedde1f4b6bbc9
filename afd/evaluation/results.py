"""Results of the ablations: files of each arm and seed, and one table of all.

<results>/arms/<cell>.json       numbers for `dvc metrics diff`, and the evaluation's card
<results>/prompts/<cell>.parquet a row a prompt and noise seed, for paired differences
<results>/curves/<cell>.csv      a row a round, for `dvc plots diff`
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from afd.errors import InputError
from afd.evaluation.comparison import CardError, Evaluation, compare
from afd.evaluation.metric_specs import TOLERANCES, metric_spec
from afd.evaluation.readings import show
from afd.store import write_atomic, write_json

DONE, FAILED = "done", "failed"
CURE = "`dvc repro quick` makes those of the main arms, `dvc repro` all"
Status = Literal["done", "failed"]
COLUMNS = tuple(TOLERANCES)
SIDES = ("base", "student")
AGAINST = "afd"
# An interval over prompts does not cover another training seed, and those of one arm lie .11 px
# apart here: a difference is claimed from this number of seeds on.
CLAIMED_SEEDS = 3
LONG = "_long"  # arms of the long schedule, in a section of their own


class RowsError(InputError):
    """Files of a cell are missing or damaged."""


@dataclass(frozen=True)
class CellResult:
    """Results of one campaign of the grid; `reason` is the end of its log where it failed."""

    name: str
    arm: str
    world: str | None
    seed: int
    status: Status
    reason: str = ""
    student: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    base: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    horizon: Mapping[str, Any] = field(default_factory=dict[str, Any])  # on longer clips, or empty
    table: pd.DataFrame | None = None

    @classmethod
    def of(
        cls,
        name: str,
        arm: str,
        world: str | None,
        seed: int,
        *,
        summary: Path,
        card: Path,
        table: Path,
        horizon: Path | None = None,
    ) -> "CellResult":
        """Read the files of a final evaluation, and the summary of the one on longer clips."""
        metrics: dict[str, dict[str, Any]] = json.loads(summary.read_bytes())["metrics"]
        longer: dict[str, Any] = {}
        if horizon is not None:
            content = json.loads(horizon.read_bytes())
            longer = {side: {k: v[side] for k, v in content["metrics"].items()} for side in SIDES}
            longer |= {"drift": content["drift"], "horizon": content["horizon"]}
        rows = pd.read_parquet(table)
        return cls(
            name, arm, world, seed, DONE,
            student={key: row["student"] for key, row in metrics.items()},
            base={key: row["base"] for key, row in metrics.items()},
            card=json.loads(card.read_bytes()),
            horizon=longer,
            table=rows.loc[rows["side"] == "student"].drop(columns="side").reset_index(drop=True),
        )  # fmt: skip

    @property
    def evaluation(self) -> Evaluation:
        """The cell for a comparison; raises ValueError for a cell that failed."""
        if self.table is None:
            raise ValueError(f"{self.name} has no results: {self.reason}")
        return Evaluation(self.name, self.card, self.table)


def save_cell(folder: Path, cell: CellResult, curves: pd.DataFrame | None = None) -> None:
    """Write the three files of a cell, its numbers last; of a failed one the tables are empty."""
    for name in ("arms", "prompts", "curves"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"prompt_id": []}) if cell.table is None else cell.table
    write_atomic(folder / "prompts" / f"{cell.name}.parquet", table.to_parquet(index=False))
    drawn = pd.DataFrame({"round": []}) if curves is None else curves
    write_atomic(folder / "curves" / f"{cell.name}.csv", drawn.to_csv(index=False).encode())
    content = {key: value for key, value in asdict(cell).items() if key != "table"}
    write_json(folder / "arms" / f"{cell.name}.json", content)


def load_cells(folder: Path, names: Collection[str] | None = None) -> list[CellResult]:
    """Return the cells of `names`, or all, in the order of their names.

    Raises RowsError for a cell with a damaged or missing file: git has the numbers of a cell, and
    the clone that ran it has its rows.
    """
    cells: list[CellResult] = []
    for file in sorted((folder / "arms").glob("*.json")):
        rows = folder / "prompts" / f"{file.stem}.parquet"
        reading = file
        try:
            if names is not None and file.stem not in names:
                continue
            content: dict[str, Any] = json.loads(file.read_bytes())
            if content["status"] != DONE:
                cells.append(CellResult(**content))
                continue
            reading = rows
            cells.append(CellResult(**content, table=pd.read_parquet(rows)))
        except FileNotFoundError:
            raise RowsError(f"{reading} is not here: {CURE}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise RowsError(f"{reading} cannot be read ({error}): remove it, then {CURE}") from None
    return cells


def arms(cells: Iterable[CellResult]) -> dict[tuple[str | None, str], list[CellResult]]:
    """Return the cells by world and arm: the training seeds of an arm together."""
    found: dict[tuple[str | None, str], list[CellResult]] = {}
    for cell in cells:
        found.setdefault((cell.world, cell.arm), []).append(cell)
    return found


def base_cells(cells: Iterable[CellResult], world: str | None) -> list[CellResult]:
    """Return cells with the base of each training seed of a world: AFD's, else any arm's."""
    here = [cell for cell in cells if cell.world == world and cell.base]
    return [cell for cell in here if cell.arm == AGAINST] or here


def table(cells: Sequence[CellResult]) -> str:
    """Return Markdown with the arms' metrics, and their paired differences to AFD.

    Metrics are mean and range over training seeds. Differences are of the same world and the same
    seeds, bold where they are clear and of CLAIMED_SEEDS or more.
    """
    lines: list[str] = []
    by_arm = arms(cell for cell in cells if not cell.arm.endswith(LONG))
    for world in dict.fromkeys(world for world, _ in by_arm):
        lines += [f"### {_world(world)}", "", *_levels(by_arm, world), ""]
        if (differences := _differences(by_arm, world))[2:]:
            lines += [*differences, ""]
    failed = [cell for cell in cells if cell.status == FAILED]
    if failed:
        lines += ["### Failed", ""]
        lines += [f"- `{cell.name}`: {_last_error(cell.reason)}" for cell in failed]
        lines += ["", "Run one of them again with `dvc repro --force --single-item <its stage>`."]
    return "\n".join(lines).rstrip() + "\n"


def _levels(
    by_arm: Mapping[tuple[str | None, str], list[CellResult]], world: str | None
) -> list[str]:
    lines = [
        "| arm | seeds | " + " | ".join(metric_spec(name).title for name in COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    if bases := base_cells((cell for found in by_arm.values() for cell in found), world):
        levels = [_range([cell.base.get(name) for cell in bases]) for name in COLUMNS]
        lines.append(f"| base | {_seeds(bases)} | " + " | ".join(levels) + " |")
    for (where, arm), found in by_arm.items():
        if where == world:
            done = any(cell.status == DONE for cell in found)
            levels = [
                _range([c.student.get(n) for c in found]) if done else FAILED for n in COLUMNS
            ]
            lines.append(f"| {arm} | {_seeds(found)} | " + " | ".join(levels) + " |")
    return lines


def _differences(
    by_arm: Mapping[tuple[str | None, str], list[CellResult]], world: str | None
) -> list[str]:
    """Return arm minus AFD on the seeds that both have; Holm over the metrics of an arm."""
    ours = {c.seed: c for c in by_arm.get((world, AGAINST), []) if c.status == DONE}
    lines = [
        "| arm minus afd | seeds | "
        + " | ".join(metric_spec(name).title for name in COLUMNS)
        + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for (where, arm), found in by_arm.items():
        if where != world or arm == AGAINST:
            continue
        theirs = [c for c in found if c.status == DONE and c.seed in ours]
        if not theirs:
            done = any(cell.status == DONE for cell in found)
            why = "no seed that afd has too" if done else FAILED
            lines.append(f"| {arm} | {why} |" + " |" * len(COLUMNS))
            continue
        try:
            rows = compare(
                [ours[c.seed].evaluation for c in theirs], [c.evaluation for c in theirs]
            )
        except CardError:
            lines.append(f"| {arm} | not comparable: other cards |" + " |" * len(COLUMNS))
            continue
        is_claimed = len(theirs) >= CLAIMED_SEEDS
        cells = {
            row.metric: f"**{row}**" if is_claimed and row.is_clear else f"{row}" for row in rows
        }
        differences = " | ".join(cells.get(name, "\u2013") for name in COLUMNS)
        lines.append(f"| {arm} | {', '.join(str(c.seed) for c in theirs)} | {differences} |")
    return lines


def _range(values: Sequence[float | None]) -> str:
    """Return the mean, with the range where there are several training seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "\u2013"
    mean = show(sum(known) / len(known))
    return mean if len(known) == 1 else f"{mean} ({show(min(known))} to {show(max(known))})"


def _seeds(found: Sequence[CellResult]) -> str:
    done = [str(cell.seed) for cell in found if cell.status == DONE]
    failed = [str(cell.seed) for cell in found if cell.status == FAILED]
    return ", ".join(done + [f"{seed} failed" for seed in failed])


def _world(world: str | None) -> str:
    return "The pocket world" if world is None else f"World: {world.replace('_', ' ')}"


def _last_error(reason: str) -> str:
    """Return the error of a log: the last line that is not indented."""
    lines = [line.strip() for line in reason.splitlines() if line.strip() and line[0] != " "]
    return lines[-1] if lines else "no reason on record"
