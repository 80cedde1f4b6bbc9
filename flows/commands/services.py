"""Commands that show and serve a folder's campaigns: status, logs, Prefect, checks."""

from typing import Annotated

from cyclopts import Parameter

from flows.command_text import CLUSTER, RUNS, STORE
from flows.commands.options import (
    ClusterFile,
    DryRun,
    Json,
    MaybeName,
    Runs,
    StoreFolder,
    examples,
    flag,
    group,
)

app = group()


@app.command(
    alias=("list", "ls"),
    help_epilogue=examples(
        "afd status                        every campaign of runs/",
        "afd status demo",
    ),
)
def status(name: MaybeName = None, *, json: Json = False, runs: Runs = RUNS) -> None:
    """Print the state of every campaign: rounds, stages, jobs with SLURM's state and reason."""
    from flows.commands.operate import print_status

    print_status(runs, name, as_json=json)


@app.command(help_epilogue=examples("afd logs demo", "afd logs demo --stage update -f"))
def logs(
    campaign: Annotated[
        str | None, Parameter(help="its name; needed where there are several")
    ] = None,
    /,
    *,
    name: MaybeName = None,
    stage: Annotated[
        str | None, Parameter(help="e.g. update; default: what runs, else failed, else ran last")
    ] = None,
    runs: Runs = RUNS,
    lines: Annotated[int, Parameter(help="of its end")] = 40,
    follow: Annotated[
        bool,
        Parameter(
            name=("--follow", "-f"),
            negative="",
            show_default=False,
            help="go on printing, stage after stage, while the campaign runs",
        ),
    ] = False,
) -> None:
    """Print the log of a stage: of the one that runs, else failed, else ran last."""
    from flows.commands.operate import print_logs

    print_logs(runs, campaign, name, stage, lines, follow)


@app.command(help_epilogue=examples("afd up", "afd down                          stops it"))
def up(*, runs: Runs = RUNS, store: StoreFolder = STORE, dry_run: DryRun = False) -> None:
    """Start a Prefect server and serve `afd/round` and `afd-campaign/campaign`."""
    from flows.commands.operate import preview_services, start_services

    (preview_services if dry_run else start_services)(runs, store)


@app.command(help_epilogue=examples("afd down"))
def down(*, runs: Runs = RUNS) -> None:
    """Stop what `afd up` started, and only that."""
    from flows.commands.operate import stop_services

    stop_services(runs)


@app.command(
    help_epilogue=examples(
        "afd doctor", "afd doctor --cluster params/cluster/slurm.yaml     with a probe job"
    )
)
def doctor(
    *,
    json: Json = False,
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
    cluster: ClusterFile = CLUSTER,
) -> int:
    """Check everything a run needs; with --cluster of a SLURM cluster, by a probe job, that too.

    The exit code is 2 where something is missing.
    """
    from flows.commands.doctor import examine

    return examine(runs, store, cluster, as_json=json)


@app.command(help_epilogue=examples("afd gc --dry-run", "afd gc --yes"))
def gc(
    *,
    dry_run: Annotated[bool, flag("only list what no campaign needs")] = False,
    yes: Annotated[bool, flag("remove it without asking")] = False,
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
) -> None:
    """List what no campaign needs, with sizes, and remove it on your word.

    Clips, ledgers, prompts and weights always stay; what is removed can be computed again.
    """
    from flows.commands.collect import collect

    collect(runs, store, remove=yes, dry_run=dry_run)
