"""`afd ablation`: play a cell of the grid, or make the page from all results. Used by dvc.yaml."""

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.command_text import CLUSTER, RUNS, STORE
from flows.commands.exit_codes import ExitCode
from flows.commands.options import DryRun, Json, Runs, StoreFolder, examples, group

app = group(
    name="ablation",
    help="The arms that AFD is compared with: params/grid.yaml, params/ablations/.",
    epilogue=examples(
        "afd ablation play afd --seed 1 --group main",
        "afd ablation reproduced           results here against those of HEAD",
    ),
)
SideBySide = Annotated[
    int | None,
    Parameter(name="--side-by-side", help="campaigns at a time; default: one a core"),
]
# Where campaigns run is circumstance: it must not enter a stage's command, or dvc would take a
# move to a cluster for a change of the arm.
CLUSTER_VARIABLE = "AFD_CLUSTER"
ALONE_VARIABLE = "AFD_ALONE"  # set: a cell is played without the others of its group


@app.command(help_epilogue=examples("afd ablation play afd --seed 1 --group main"))
def play(
    arm: Annotated[str, Parameter(help="a name of params/ablations/: afd, bce, gan ...")],
    *,
    seed: Annotated[int, Parameter(help="of training, from 1")],
    group: Annotated[
        Literal["main", "further", "grid", "worlds", "long"],
        Parameter(help="of params/grid.yaml: its other arms are played beside this one"),
    ],
    world: Annotated[
        str | None, Parameter(help="a world of params/grid.yaml; default: the pocket one")
    ] = None,
    side_by_side: SideBySide = None,
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
    dry_run: DryRun = False,
) -> None:
    """Play one arm, and beside it the others of its group; leave its results in results/.

    A failed campaign is a result too: it is written down as failed, and the exit code is 0.
    """
    from flows.recorded import cell_files, cell_name, put_back

    put_back(cell_files(cell_name(arm, *([world] if world else []), str(seed))))  # before a stop

    from flows.ablations import MORE, Cell
    from flows.ablations import group as cells_of
    from flows.ablations import play as play_cell
    from flows.paths import CampaignPaths

    cell = Cell(arm, seed, world, MORE[group])
    jobs = side_by_side or len(os.sched_getaffinity(0))
    cluster = _cluster()
    beside = [] if os.environ.get(ALONE_VARIABLE) else cells_of(group, seed)
    if dry_run:
        from flows.commands.dry_run import print_cells

        print_cells(cell, beside, CampaignPaths(runs, store), jobs)
    else:
        play_cell(cell, beside, CampaignPaths(runs, store), cluster, jobs)


@app.command(help_epilogue=examples("afd ablation tune", "afd ablation tune dmd gan --no-play"))
def tune(
    *arms: Annotated[str, Parameter(help="default: all of params/tuning.yaml")],
    side_by_side: SideBySide = None,
    play: Annotated[
        bool, Parameter(help="play what is missing; --no-play: read what is there")
    ] = True,
    table: Annotated[Path, Parameter(help="the CSV to write")] = Path("results/tuning.csv"),
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
) -> None:
    """Tune every arm, or some, with the same effort: params/tuning.yaml; print the best."""
    from flows.commands.consoles import console
    from flows.paths import CampaignPaths
    from flows.tuning import save
    from flows.tuning import tune as tune_arms

    jobs = side_by_side or len(os.sched_getaffinity(0))
    cluster = _cluster()
    found = tune_arms(CampaignPaths(runs, store), cluster, jobs, arms, play=play)
    save(found, table)
    console(140).print(found.to_string(index=False))


@app.command(
    help_epilogue=examples(
        "afd ablation table",
        "afd ablation table --seed 1 --page docs/quick.md",
    )
)
def table(
    *,
    results: Annotated[Path, Parameter(help="the folder of results")] = Path("results"),
    page: Annotated[Path, Parameter(help="the page to write")] = Path("docs/results.md"),
    seed: Annotated[
        tuple[int, ...], Parameter(show_default=False, help="only these training seeds")
    ] = (),
    json: Json = False,
) -> None:
    """Write the table and the pictures of all results, or of some training seeds."""
    from flows.commands.comparing import write_results

    cells, unplayed = write_results(results, page, seed)
    if json:
        from flows.commands.comparing import table_document
        from flows.commands.json_output import print_document

        print_document(table_document(page, cells, unplayed))


@app.command(
    help_epilogue=examples("afd ablation reproduced", "afd ablation reproduced --against v0.1.0")
)
def reproduced(
    *,
    results: Annotated[Path, Parameter(help="the folder of results")] = Path("results"),
    against: Annotated[str, Parameter(help="the commit whose numbers are the measure")] = "HEAD",
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
    json: Json = False,
) -> int:
    """Compare the cells that ran here with the committed results, number by number.

    Equal to the last bit on the same kind of CPU; on another within a tolerance that was measured.
    The exit code is 1 where something lies outside, and where nothing ran here.
    """
    from flows.commands.reproducing import print_reproduced
    from flows.paths import CampaignPaths

    is_same = print_reproduced(results, against, CampaignPaths(runs, store), as_json=json)
    return ExitCode.DONE if is_same else ExitCode.NO


def _cluster() -> Path:
    """Return the cluster's file; a faulty one is refused here, before it fails every arm."""
    from afd.config import Cluster
    from afd.params import load_params

    file = Path(os.environ.get(CLUSTER_VARIABLE, CLUSTER))
    load_params(Cluster, file)
    return file
