"""`afd ablation`: play a cell of the grid, or make the page from all results. Used by dvc.yaml."""

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from flows.invocation import CLUSTER, RUNS, STORE

app = App(
    name="ablation", help="The arms that AFD is compared with: params/grid.yaml, params/ablations/."
)
# Where campaigns run is circumstance: it must not enter a stage's command, or dvc would take a
# move to a cluster for a change of the arm.
CLUSTER_VARIABLE = "AFD_CLUSTER"
ALONE_VARIABLE = "AFD_ALONE"  # set: a cell is played without the others of its group


@app.command
def play(
    arm: str,
    *,
    seed: int,
    group: Literal["main", "further", "grid", "worlds", "long"],
    world: str | None = None,
    side_by_side: Annotated[
        int | None, Parameter(help="campaigns at a time; default: one a core")
    ] = None,
    runs: Path = RUNS,
    store: Path = STORE,
) -> None:
    """Play one arm, and beside it the others of its group; leave its results in results/.

    A failed campaign is a result too: it is written down as failed, and the exit code is 0.
    """
    from flows.ablations import MORE, Cell
    from flows.ablations import group as cells_of
    from flows.ablations import play as play_cell
    from flows.places import Places

    cell = Cell(arm, seed, world, MORE[group])
    jobs = side_by_side or len(os.sched_getaffinity(0))
    cluster = _cluster()
    beside = [] if os.environ.get(ALONE_VARIABLE) else cells_of(group, seed)
    play_cell(cell, beside, Places(runs, store), cluster, jobs)


@app.command
def tune(
    *arms: str,
    side_by_side: Annotated[
        int | None, Parameter(help="campaigns at a time; default: one a core")
    ] = None,
    play: Annotated[bool, Parameter(help="without: only read what was played")] = True,
    table: Path = Path("results/tuning.csv"),
    runs: Path = RUNS,
    store: Path = STORE,
) -> None:
    """Tune every arm, or some, with the same effort: params/tuning.yaml. Prints what won."""
    from rich.console import Console

    from flows.places import Places
    from flows.tuning import save
    from flows.tuning import tune as tune_arms

    jobs = side_by_side or len(os.sched_getaffinity(0))
    cluster = _cluster()
    found = tune_arms(Places(runs, store), cluster, jobs, arms, play=play)
    save(found, table)
    Console(width=140).print(found.to_string(index=False))


@app.command
def table(
    *,
    results: Path = Path("results"),
    page: Path = Path("docs/results.md"),
    seed: tuple[int, ...] = (),
) -> None:
    """Write the table and the pictures of all results, or of some training seeds (--seed)."""
    from flows.commands.comparing import write_results

    write_results(results, page, seed)


@app.command
def reproduced(
    *,
    results: Path = Path("results"),
    against: Annotated[str, Parameter(help="the commit whose numbers are the measure")] = "HEAD",
) -> int:
    """Hold the results that were played here against the committed ones, number by number.

    Equal to the last bit on the same kind of CPU; on another within a tolerance that was measured.
    The exit code is 1 where something lies outside, or has not been played.
    """
    from flows.commands.reproducing import say_reproduced

    return 0 if say_reproduced(results, against) else 1


def _cluster() -> Path:
    """Where campaigns run; a faulty file is refused here, before it could be a result of an arm."""
    from afd.config import Cluster
    from afd.params import load_params

    file = Path(os.environ.get(CLUSTER_VARIABLE, CLUSTER))
    load_params(Cluster, file)
    return file
