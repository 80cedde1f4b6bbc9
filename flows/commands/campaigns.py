"""Commands that start, plan and stop campaigns."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from afd.planning.machines import Device
from flows.command_text import CLUSTER, RUNS, STORE
from flows.commands.options import (
    ClusterFile,
    ClusterOverrides,
    DryRun,
    Json,
    MaybeName,
    Name,
    Overlays,
    Overrides,
    ParamsFile,
    Runs,
    StoreFolder,
    WithPrefect,
    examples,
    flag,
    group,
)

app = group()


@app.command(
    help_epilogue=examples(
        "afd campaign demo --params params/pocket.yaml",
        "afd campaign demo                 goes on with it",
        "afd campaign demo2 --params params/pocket.yaml --set seed=2",
        "afd campaign bce --params params/pocket.yaml \\",
        "  --overlay params/ablations/bce.yaml",
    )
)
def campaign(
    name: Name,
    *,
    params: ParamsFile = None,
    overlay: Overlays = (),
    set_: Overrides = (),
    cluster: ClusterFile = CLUSTER,
    set_cluster: ClusterOverrides = (),
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
    prefect: WithPrefect = True,
    set_aside: Annotated[
        bool, flag("rename an earlier campaign of this name that has other params")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Run a campaign, or go on with it from wherever it stopped."""
    from flows.commands.launch import Launch, launch_campaign

    launch = Launch.chosen(name, params, overlay, set_, cluster, set_cluster, runs, store)
    if dry_run:
        launch.print_dry_run("campaign", with_prefect=prefect, aside=set_aside)
    else:
        launch_campaign(launch, with_prefect=prefect, aside=set_aside)


@app.command(
    help_epilogue=examples(
        "afd round demo2 --params params/pocket.yaml",
        "afd round demo2 --index 1         round 1, and whatever it needs",
    )
)
def round(
    name: Name,
    *,
    params: ParamsFile = None,
    index: Annotated[
        int | None, Parameter(help="the round, from 0; default: the first that is not finished")
    ] = None,
    overlay: Overlays = (),
    set_: Overrides = (),
    cluster: ClusterFile = CLUSTER,
    set_cluster: ClusterOverrides = (),
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
    prefect: WithPrefect = True,
    dry_run: DryRun = False,
) -> None:
    """Run one round of a campaign: the next one, or --index."""
    from flows.commands.launch import Launch, launch_round

    launch = Launch.chosen(name, params, overlay, set_, cluster, set_cluster, runs, store)
    if dry_run:
        launch.print_dry_run("round", index, with_prefect=prefect)
    else:
        launch_round(launch, index, with_prefect=prefect)


@app.command(
    help_epilogue=examples(
        "afd resume demo",
        "afd resume demo --acknowledge     after an alarm's pause",
    )
)
def resume(
    name: MaybeName = None,
    *,
    acknowledge: Annotated[
        bool, flag("go on after the alarm that paused the campaign: it has been seen")
    ] = False,
    cluster: Annotated[
        Path | None,
        Parameter(name="--cluster", help="another file than last time; default: the same, reread"),
    ] = None,
    set_cluster: ClusterOverrides = (),
    runs: Runs = RUNS,
    prefect: WithPrefect = True,
    dry_run: DryRun = False,
) -> None:
    """Go on with the last command, after a kill, a failure, a cancel or an alarm's pause."""
    from flows.commands.launch import resume as go_on
    from flows.commands.operate import to_resume

    go_on(
        to_resume(runs, name),
        with_prefect=prefect,
        acknowledge=acknowledge,
        cluster=cluster,
        cluster_overrides=set_cluster,
        dry_run=dry_run,
    )


@app.command(
    alias="stop",
    help_epilogue=examples(
        "afd cancel demo",
        "afd cancel demo --now             kills a process that does not end",
    ),
)
def cancel(
    name: MaybeName = None,
    *,
    now: Annotated[bool, flag("kill its process instead of waiting until it ends")] = False,
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
) -> None:
    """Stop a campaign wherever it runs, with its jobs; everything finished stays."""
    from flows.commands.operate import cancel_campaign

    cancel_campaign(runs, store, name, now=now)


@app.command(
    help_epilogue=examples(
        "afd plan params/pocket.yaml",
        "afd plan params/self_forcing.yaml --device h100 --usd-per-hour 2.5 --ranks 4",
    )
)
def plan(
    params: Annotated[Path, Parameter(name="--params", help="the whole campaign, as YAML")],
    *,
    overlay: Overlays = (),
    set_: Overrides = (),
    device: Annotated[
        Device | None,
        Parameter(help="what computes; default: cpu for a pocket student, h100 for others"),
    ] = None,
    memory_gb: Annotated[
        float | None, Parameter(help="memory of one device in GB; default: that of its kind")
    ] = None,
    usd_per_hour: Annotated[
        float | None, Parameter(help="price of one device, for the cost of the whole")
    ] = None,
    ranks: Annotated[int, Parameter(help="devices that compute an update together")] = 1,
    json: Json = False,
) -> int:
    """Print what a campaign will take, before it starts: work, memory, hours, storage, cost.

    The exit code is 2 where something cannot fit.
    """
    from afd.config import Params
    from afd.params import load_params
    from flows.commands.planning import print_plan

    chosen = load_params(Params, params, overlay, set_)
    return print_plan(chosen, device, memory_gb, usd_per_hour, ranks, as_json=json)


@app.command(help_epilogue=examples("afd init mine", "afd init mine --template self_forcing"))
def init(
    folder: Annotated[Path, Parameter(help="a new folder, or one without params.yaml")],
    *,
    template: Annotated[str, Parameter(help="a file of params/, without .yaml")] = "pocket",
) -> None:
    """Write commented params and a cluster's file for a campaign of your own."""
    from flows.commands.params_files import make_own

    make_own(folder, template)


@app.command(
    help_epilogue=examples("afd stage fit --request request.json --store store"),
)
def stage(
    name: Annotated[str, Parameter(name=("--name", "--stage-name"), help="e.g. fit")],
    *,
    request: Annotated[Path, Parameter(help="the stage's request, as JSON")],
    store: StoreFolder = STORE,
    threads: Annotated[int, Parameter(help="compute threads", validator=Number(gte=1))] = 1,
) -> int:
    """Run one stage's request file in this process (`python -m afd.stages`), for debugging."""
    from afd.runtime.stage_log import write_to_stderr
    from afd.stages.__main__ import main as door

    write_to_stderr()
    arguments = [name, "--request", str(request), "--store", str(store)]
    return door([*arguments, "--threads", str(threads)])
