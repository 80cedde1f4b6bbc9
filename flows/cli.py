"""`afd`: the command line. Nothing heavy is imported before a command is chosen."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
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
)


def _version() -> str:
    from afd.version import version_text

    return f"afd {version_text()}"


app = App(
    name="afd",
    help="On-Policy Adversarial Flow Distillation: a teacher that shows only finished videos "
    "teaches a causal, few-step video student. -v: also the lines of DVC, MLflow and Prefect.",
    help_epilogue=examples(
        "afd plan params/pocket.yaml       work, memory, hours and cost of a campaign",
        "afd campaign demo --params params/pocket.yaml",
        "afd help campaign                 the help of one command",
    ),
    version=_version,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # `main` says what is kept
    help_format="plaintext",  # markdown would cost 0.1 s of imports
    default_parameter=Parameter(negative_iterable=()),
)
app.register_install_completion_command()
app.command(
    "flows.commands.study:app",
    name="ablation",
    help="The arms that AFD is compared with: play, tune, tabulate and reproduce them.",
)
app.command(
    "flows.commands.harvesting:app",
    name="harvest",
    help="Clips of a paid or distant teacher: their cost, orders and imports.",
)
app.command(
    "flows.commands.params:app",
    name="params",
    help="Params files: values in force with their sources, schema, reference.",
)
app.command(
    "flows.commands.sample:sample",
    name="sample",
    help="Make videos of sentences with the student of any round.",
    help_epilogue=examples(
        "afd sample demo \\",
        '  "a small red ball starts high on the left and drops straight down"',
        "afd sample demo --held-out 4 --beside start,teacher -o four.mp4",
        "afd sample demo --held-out 4 --round 3 --seeds 1,2 -o videos/ --sheet all.png",
    ),
)


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
    name="help", help_epilogue=examples("afd help campaign", "afd help ablation reproduced")
)
def help_(
    *command: Annotated[str, Parameter(help="the command; default: an overview of all")],
) -> None:
    """Print the help of a command."""
    app([*command, "--help"], exit_on_error=True, result_action="return_value")


def main() -> None:
    """Run a command; what a person can mend is said without a traceback, exit code 2."""
    from flows.commands.ending import until_end
    from flows.library_env import set_library_defaults, take_verbose

    arguments = take_verbose(sys.argv[1:])
    set_library_defaults()
    until_end(lambda: app(arguments, exit_on_error=True, result_action="return_value"))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
