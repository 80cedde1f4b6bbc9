"""`afd`: the command line. Nothing heavy is imported before a command is chosen."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from afd.planning.machines import Device
from flows.invocation import CLUSTER, RUNS, STORE

app = App(
    name="afd",
    help="On-Policy Adversarial Flow Distillation: a teacher that shows only finished videos "
    "teaches a causal, few-step video student.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # `main` says what is kept
    help_format="plaintext",  # markdown would cost 0.1 s of imports
)
app.command("flows.commands.study:app", name="ablation")
app.command("flows.commands.harvesting:app", name="harvest")
Name = Annotated[str, Parameter(name="--name", help="the campaign: a folder below --runs")]
MaybeName = Annotated[
    str | None, Parameter(name="--name", help="the campaign; needed where there are several")
]
ParamsFile = Annotated[
    Path | None,
    Parameter(name="--params", help="the whole campaign, as YAML; not needed to go on with one"),
]
Overlays = Annotated[
    tuple[Path, ...], Parameter(name="--overlay", help="YAML laid over it", negative="")
]
Overrides = Annotated[
    tuple[str, ...], Parameter(name="--set", help="dotted.field=value", negative="")
]
ClusterFile = Annotated[Path, Parameter(name="--cluster", help="where it runs, as YAML")]
ClusterOverrides = Annotated[
    tuple[str, ...], Parameter(name="--set-cluster", help="field=value", negative="")
]
WithPrefect = Annotated[bool, Parameter(name="--prefect", help="through Prefect's server")]


@app.command
def campaign(
    *,
    name: Name,
    params: ParamsFile = None,
    overlay: Overlays = (),
    set_: Overrides = (),
    cluster: ClusterFile = CLUSTER,
    set_cluster: ClusterOverrides = (),
    runs: Path = RUNS,
    store: Path = STORE,
    prefect: WithPrefect = True,
    set_aside: Annotated[
        bool,
        Parameter(negative="", help="rename an earlier one of this name with other params"),
    ] = False,
) -> None:
    """Run a campaign, or go on with it from wherever it stopped."""
    from flows.commands.launch import Launch, launch_campaign

    launch = Launch.chosen(name, params, overlay, set_, cluster, set_cluster, runs, store)
    launch_campaign(launch, with_prefect=prefect, aside=set_aside)


@app.command
def round(
    *,
    name: Name,
    params: ParamsFile = None,
    index: int | None = None,
    overlay: Overlays = (),
    set_: Overrides = (),
    cluster: ClusterFile = CLUSTER,
    set_cluster: ClusterOverrides = (),
    runs: Path = RUNS,
    store: Path = STORE,
    prefect: WithPrefect = True,
) -> None:
    """Run one round of a campaign: the next one, or --index."""
    from flows.commands.launch import Launch, launch_round

    launch = Launch.chosen(name, params, overlay, set_, cluster, set_cluster, runs, store)
    launch_round(launch, index, with_prefect=prefect)


@app.command
def plan(
    params: Path,
    *,
    overlay: Overlays = (),
    set_: Overrides = (),
    device: Device | None = None,
    memory_gb: float | None = None,
    usd_per_hour: float | None = None,
    ranks: int = 1,
) -> int:
    """What a campaign will take, before anything is spent: work, memory, hours, storage, cost.

    --ranks: how many devices compute an update together.
    """
    from afd.config import Params
    from afd.params import load_params
    from flows.commands.planning import print_plan

    chosen = load_params(Params, params, overlay, set_)
    return print_plan(chosen, device, memory_gb, usd_per_hour, ranks)


@app.command
def show(what: str, *, runs: Path = RUNS, store: Path = STORE) -> None:
    """Where a student came from: fingerprint prefix, or the name of a campaign."""
    from rich.console import Console

    from afd.store import Store
    from flows.commands.show import chain, find

    known = Store(store)
    for artifact in find(what, known, runs):
        Console().print(chain(artifact, known, runs))


@app.command
def report(*, name: Name, runs: Path = RUNS) -> None:
    """The results table of a finished campaign and the path of its report."""
    from flows.commands.launch import print_results

    print_results(name, runs)


@app.command
def compare(first: str, *others: str, runs: Path = RUNS, store: Path = STORE) -> None:
    """Paired differences of finished campaigns to the first one named."""
    from rich.console import Console

    from flows.commands.comparing import compared
    from flows.places import Places

    for table in compared(first, others, Places(runs, store)):
        needed = Console(width=1000).measure(table).maximum  # a number that is cut is a wrong one
        Console(width=max(Console().width, needed)).print(table)


@app.command
def ui(*, name: str | None = None, runs: Path = RUNS, port: int = 5000, dry: bool = False) -> None:
    """Open MLflow's UI on the campaigns (--dry: only print the command)."""
    from flows.commands.mlflow_ui import serve_mlflow

    serve_mlflow(runs, name, port, dry=dry)


@app.command
def up(*, runs: Path = RUNS, store: Path = STORE) -> None:
    """Have a Prefect server and serve `afd/round` and `afd-campaign/campaign` in the background."""
    from flows.commands.operate import say_up

    say_up(runs, store)


@app.command
def down(*, runs: Path = RUNS) -> None:
    """Stop what `afd up` started, and only that."""
    from flows.commands.operate import say_down

    say_down(runs)


@app.command
def status(*, name: MaybeName = None, runs: Path = RUNS) -> None:
    """What every campaign does: rounds, stages, jobs with SLURM's state and reason, its holder."""
    from flows.commands.operate import say_status

    say_status(runs, name)


@app.command
def logs(
    stage: str | None = None,
    /,
    *,
    name: MaybeName = None,
    runs: Path = RUNS,
    lines: int = 40,
    follow: bool = False,
) -> None:
    """The log of a stage: the one that runs, else failed, else ran last; or of STAGE."""
    from flows.commands.operate import say_logs

    say_logs(runs, name, stage, lines, follow)


@app.command
def cancel(
    *, name: MaybeName = None, now: bool = False, runs: Path = RUNS, store: Path = STORE
) -> None:
    """Stop a campaign wherever it runs, with its jobs (--now: do not wait for its head)."""
    from flows.commands.operate import say_cancel

    say_cancel(runs, store, name, now=now)


@app.command
def resume(
    *,
    name: MaybeName = None,
    acknowledge: Annotated[
        bool, Parameter(negative="", help="the alarm that paused it has been seen")
    ] = False,
    cluster: Annotated[
        Path | None,
        Parameter(name="--cluster", help="another than last time, whose file is read again"),
    ] = None,
    set_cluster: ClusterOverrides = (),
    runs: Path = RUNS,
    prefect: WithPrefect = True,
) -> None:
    """Go on with what was asked last, after a kill, a failure, a cancel or an alarm's pause."""
    from flows.commands.launch import resume as go_on
    from flows.commands.operate import to_resume

    go_on(
        to_resume(runs, name),
        with_prefect=prefect,
        acknowledge=acknowledge,
        cluster=cluster,
        cluster_overrides=set_cluster,
    )


@app.command
def doctor(*, runs: Path = RUNS, store: Path = STORE, cluster: ClusterFile = CLUSTER) -> int:
    """Check everything a run needs; with --cluster of a SLURM cluster, by a probe job, that too."""
    from flows.commands.doctor import examine

    return examine(runs, store, cluster)


@app.command
def stage(
    stage_name: str,
    *,
    request: Path,
    store: Path = STORE,
    threads: int = 1,
) -> int:
    """Run one stage's request file in this process (`python -m afd.stages`), for debugging."""
    from afd.stages.__main__ import main as door

    arguments = [stage_name, "--request", str(request), "--store", str(store)]
    return door([*arguments, "--threads", str(threads)])


def main() -> None:
    """Run a command; what a person can mend is said without a traceback, exit code 2."""
    from flows.commands.ending import until_end
    from flows.quiet import be_quiet

    be_quiet()
    until_end(lambda: app(exit_on_error=True, result_action="return_value"))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
