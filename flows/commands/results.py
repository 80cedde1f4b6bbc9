"""Commands that show results: artifacts, tables, comparisons, MLflow."""

import sys
from typing import Annotated

from cyclopts import Parameter

from flows.command_text import RUNS, STORE
from flows.commands.options import Json, MaybeName, Name, Runs, StoreFolder, examples, flag, group

app = group()


@app.command(
    help_epilogue=examples(
        "afd show demo                     the last student of a campaign",
        "afd show demo --all               everything behind it, back to the prompts",
        "afd show demo-student/3           a registered version",
        "afd show 5f2c9a01                 an artifact, by its first digits",
    )
)
def show(
    name: Annotated[
        str,
        Parameter(
            name="--name",
            help="a campaign, a fingerprint's first digits, an MLflow run id, or a version",
        ),
    ],
    *,
    all: Annotated[bool, flag("every artifact of every round, with its hashes")] = False,
    json: Json = False,
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
) -> None:
    """Print what a student or another artifact was made from: its round, then a line a round."""
    from flows.commands.show_output import print_chains

    print_chains(name, runs, store, every=all, as_json=json)


@app.command(help_epilogue=examples("afd report demo"))
def report(name: Name, *, runs: Runs = RUNS) -> None:
    """Print the results table of a finished campaign and the path of its report."""
    from flows.commands.launch import print_results

    print_results(name, runs)


@app.command(
    help_epilogue=examples(
        "afd compare demo bce              bce minus demo, prompt by prompt",
        "afd compare demo bce gan          each of the others minus the first",
    )
)
def compare(
    first: Annotated[str, Parameter(help="the campaign that others are compared with")],
    /,
    *others: Annotated[str, Parameter(help="one or more finished campaigns")],
    json: Json = False,
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
) -> None:
    """Print paired differences of finished campaigns to the first one named."""
    from flows.commands.comparing import print_comparison

    print_comparison(first, others, runs, store, as_json=json)


@app.command(
    help_epilogue=examples(
        "afd ui                            all campaigns",
        "afd ui demo --port 5001           opened on one",
    )
)
def ui(
    name: Annotated[
        str | None, Parameter(name="--name", help="the campaign to open; default: all of them")
    ] = None,
    *,
    runs: Runs = RUNS,
    port: Annotated[int, Parameter(help="of MLflow's UI on this machine")] = 5000,
    dry: Annotated[
        bool,
        Parameter(
            name=("--dry-run", "--dry"),
            negative="",
            show_default=False,
            help="check everything and print the command; start and write nothing",
        ),
    ] = False,
) -> None:
    """Open MLflow's UI on the campaigns."""
    from flows.commands.mlflow_ui import serve_mlflow

    serve_mlflow(runs, name, port, dry=dry)


@app.command(
    help_epilogue=examples(
        "afd sync                          every campaign",
        "afd sync demo",
    )
)
def sync(name: MaybeName = None, *, runs: Runs = RUNS, store: StoreFolder = STORE) -> None:
    """Record in MLflow what it lacks: after it was away, or for a new database."""
    from flows.commands.sync import synced
    from flows.paths import CampaignPaths

    for line in synced(name, CampaignPaths(runs, store)):
        sys.stdout.write(f"{line}\n")
