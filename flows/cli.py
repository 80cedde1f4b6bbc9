"""`afd`: the command line. Nothing heavy is imported before a command is chosen."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

app = App(
    name="afd",
    help="On-Policy Adversarial Flow Distillation: a teacher that shows only finished videos "
    "teaches a causal, few-step video student.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # `main` says what is kept
    help_format="plaintext",  # markdown would cost 0.1 s of imports
)
RUNS, STORE = Path("runs"), Path("store")
CLUSTER = Path("params/cluster/local.yaml")
Name = Annotated[str, Parameter(name="--name", help="the campaign: a folder below --runs")]
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
REFUSED = 2


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
) -> None:
    """Run a campaign, or go on with it from wherever it stopped."""
    from flows.launch import Launch, launch_campaign

    launch = Launch.chosen(name, params, overlay, set_, cluster, set_cluster, runs, store)
    launch_campaign(launch, with_prefect=prefect)


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
    from flows.launch import Launch, launch_round

    launch = Launch.chosen(name, params, overlay, set_, cluster, set_cluster, runs, store)
    launch_round(launch, index, with_prefect=prefect)


@app.command
def show(what: str, *, runs: Path = RUNS, store: Path = STORE) -> None:
    """Where a student came from: fingerprint prefix, or the name of a campaign."""
    from rich.console import Console

    from afd.store import Store
    from flows.show import chain, find

    known = Store(store)
    for artifact in find(what, known, runs):
        Console().print(chain(artifact, known, runs))


@app.command
def report(*, name: Name, runs: Path = RUNS) -> None:
    """The results table of a finished campaign and the path of its report."""
    from flows.launch import print_results

    print_results(name, runs)


@app.command
def ui(*, name: str | None = None, runs: Path = RUNS, port: int = 5000, dry: bool = False) -> None:
    """Open MLflow's UI on the campaigns (--dry: only print the command)."""
    from flows.services import serve_mlflow

    serve_mlflow(runs, name, port, dry=dry)


@app.command
def doctor(*, runs: Path = RUNS, store: Path = STORE) -> int:
    """Check versions, disk, git, dvc, MLflow, Prefect and the browser."""
    from flows.doctor import examine

    return examine(runs, store)


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
    from flows.quiet import be_quiet

    be_quiet()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code = app(exit_on_error=True, result_action="return_value")
    except KeyboardInterrupt:
        sys.stderr.write(
            "interrupted: everything finished is kept; run the same command again to go on\n"
        )
        _leave(130)
    except Exception as error:
        if not _is_told(error):
            raise
        sys.stderr.write(f"{error}\n")
        _leave(REFUSED)
    else:
        _leave(code if isinstance(code, int) else 0)


def _is_told(error: Exception) -> bool:
    """Whether an error's text is meant for a person: field or file, what is kept, what to do."""
    from afd.params import ParamsError
    from afd.stages.outcome import RefusedError
    from afd.store import StoreError

    told: list[type[Exception]] = [ParamsError, RefusedError, StoreError]
    if "flows.session" in sys.modules:
        from flows.dispatch import StageFailedError
        from flows.services import ServiceError
        from flows.session import HeldError

        told += [StageFailedError, ServiceError, HeldError]
    if "flows.show" in sys.modules:
        from flows.show import ShowError

        told.append(ShowError)
    return isinstance(error, tuple(told))


def _terminated(*_: object) -> None:
    """SIGTERM ends like Ctrl-C: jobs are stopped, locks let go."""
    raise KeyboardInterrupt


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
