"""Running a campaign or a round for a person at a terminal: services, progress, results."""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from afd.config import Cluster, Params
from afd.stages.outcome import RefusedError
from flows.campaign import (
    REPORT_PAGE,
    SUMMARY,
    chosen_round,
    run_campaign,
    run_one_round,
)
from flows.choices import chosen_cluster, chosen_params
from flows.display import results_table, shown
from flows.invocation import command, near
from flows.round import standing_before
from flows.services import prefect_server
from flows.session import Places, Session, campaign_folder, opened


@dataclass(frozen=True)
class Launch:
    """Everything chosen on the command line, validated before anything starts."""

    name: str
    params: Params
    cluster: Cluster
    places: Places

    @property
    def folders(self) -> dict[str, str]:
        """What the flows need to find the session again."""
        return {"runs": str(self.places.runs), "store": str(self.places.store)}

    @classmethod
    def chosen(
        cls,
        name: str,
        params: Path | None,
        overlays: Sequence[Path],
        overrides: Sequence[str],
        cluster: Path,
        cluster_overrides: Sequence[str],
        runs: Path,
        store: Path,
    ) -> "Launch":
        places = Places(runs, store)
        return cls(
            name,
            chosen_params(name, places, params, overlays, overrides),
            chosen_cluster(cluster, cluster_overrides),
            places,
        )


def launch_campaign(launch: Launch, *, with_prefect: bool) -> None:
    """From prompts to report, with progress, then the results."""

    def play(session: Session) -> None:
        if session.with_prefect:
            from flows.deploy import afd_campaign

            afd_campaign(campaign=launch.name, **launch.folders)
        else:
            run_campaign(session)

    _run(launch, play, with_prefect=with_prefect)
    print_results(launch.name, launch.places.runs)


def launch_round(launch: Launch, index: int | None, *, with_prefect: bool) -> None:
    """One round, with progress; says which student it made."""

    def play(session: Session) -> None:
        if session.with_prefect:
            from flows.deploy import afd_round

            afd_round(campaign=launch.name, round_index=chosen, **launch.folders)
        else:
            run_one_round(session, chosen)

    chosen = 0

    def choose(session: Session) -> None:
        nonlocal chosen
        chosen = chosen_round(session, index)

    _run(launch, play, with_prefect=with_prefect, prepare=choose)
    student = standing_before(launch.params, chosen + 1).student.fingerprint
    places = launch.places
    show = command("show", student[:8], runs=places.runs, store=places.store)
    Console().print(f"student {student[:16]}\n  {show}", soft_wrap=True, highlight=False)


def results_console() -> Console:
    """Wide enough for the table where the output is a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else 100)


def print_results(name: str, runs: Path) -> None:
    """The results table, the report's path and the command that opens MLflow."""
    folder = campaign_folder(name, Places(runs))
    summary, page = folder / SUMMARY, folder / REPORT_PAGE
    if not summary.exists():
        raise RefusedError(
            f"{folder}: no {SUMMARY}: the campaign is not finished\n"
            f"  {command('campaign', '--name', name, runs=runs)}    goes on with it"
        )
    console = results_console()
    console.print(results_table(summary))
    console.print(f"report   {near(page)}", soft_wrap=True, highlight=False)
    ui = command("ui", "--name", name, runs=runs)
    console.print(f"MLflow   {ui}", soft_wrap=True, highlight=False)


def _run(
    launch: Launch,
    play: Callable[[Session], None],
    *,
    with_prefect: bool,
    prepare: Callable[[Session], None] | None = None,
) -> None:
    """Hold the campaign; the worker imports while Prefect's server starts.

    `prepare` may refuse before anything starts.
    """
    console = Console()
    with ExitStack() as stack:
        session = stack.enter_context(
            opened(launch.name, launch.places, launch.params, launch.cluster)
        )
        if prepare is not None:
            prepare(session)
        if not session.is_complete:
            session.dispatch.start()
            session.with_prefect = with_prefect
        stack.enter_context(shown(session, console))
        if session.with_prefect:
            server = stack.enter_context(prefect_server(launch.places))
            if server is not None:
                server.wait()
        play(session)
