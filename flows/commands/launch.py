"""Start of a campaign or a round from a terminal: services, progress, results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from afd.campaign_page.request import PAGE
from afd.config import Cluster, Params
from afd.runtime.outcome import RefusedError
from afd.store import Store
from flows import alarm_log
from flows.campaign import (
    REPORT_PAGE,
    SUMMARY,
    chosen_round,
    refuse_no_round,
    run_campaign,
    run_one_round,
)
from flows.campaign_lock import already_running, sure_holder_of
from flows.command_text import command, short_path
from flows.commands.consoles import console
from flows.commands.display import results_table
from flows.commands.dry_run import DryRun
from flows.commands.live_view import live_view
from flows.commands.status import CampaignStatus, goes_on, known_campaign
from flows.dry_run import state_before
from flows.inputs import chosen_cluster, chosen_params, resumed_cluster
from flows.last_command import ClusterSource, CommandKind
from flows.params_source import ParamsSource, params_source
from flows.paths import CampaignPaths, campaign_folder, set_aside
from flows.prefect_runs import flow_runs
from flows.prefect_runs.final_states import unreported_error
from flows.prefect_runs.reach import is_away
from flows.prefect_runs.services import ServiceError, prefect_server
from flows.session import Session, open_campaign


@dataclass(frozen=True)
class Launch:
    """Everything chosen on the command line, validated before anything starts."""

    name: str
    params: Params
    cluster: Cluster
    paths: CampaignPaths
    cluster_source: ClusterSource | None = None
    params_source: ParamsSource | None = None

    @property
    def folders(self) -> dict[str, Any]:
        """Folders by which the flows find the session again."""
        return {"runs": str(self.paths.runs), "store": str(self.paths.store)}

    def print_dry_run(
        self,
        kind: CommandKind,
        index: int | None = None,
        *,
        with_prefect: bool,
        aside: bool = False,
        acknowledges: bool = False,
    ) -> None:
        """Print the effect of a start; raises its refusals."""
        dry = DryRun(self.name, self.params, self.cluster, self.paths)
        dry.show(kind, index, with_prefect=with_prefect, aside=aside, acknowledges=acknowledges)

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
        paths = CampaignPaths(runs, store)
        chosen = chosen_params(name, paths, params, overlays, overrides)
        return cls(
            name,
            chosen,
            chosen_cluster(cluster, cluster_overrides),
            paths,
            ClusterSource.of(cluster, cluster_overrides),
            params_source(params, overlays, overrides, chosen),
        )


def launch_campaign(launch: Launch, *, with_prefect: bool, aside: bool = False) -> None:
    """Run a campaign from prompts to report with progress, then print its results.

    `aside`: an earlier campaign of this name with other params is renamed, not refused.
    """
    if aside:
        _set_aside(launch)

    def play(session: Session) -> None:
        if session.with_prefect:
            from flows.deploy import afd_campaign

            with _or_without(session), flow_runs.called(session.site.folder):
                afd_campaign(campaign=launch.name, **launch.folders)
        if not session.with_prefect:
            run_campaign(session)

    _run(launch, play, with_prefect, "campaign")
    print_results(launch.name, launch.paths.runs)


def _set_aside(launch: Launch) -> None:
    folder = campaign_folder(launch.name, launch.paths)
    if (holder := sure_holder_of(folder)) is not None:
        raise already_running(folder, launch.name, holder)
    if (moved := set_aside(folder, launch.params)) is not None:
        line = f"{launch.name} had other params: what it was is {short_path(moved)} now"
        console(None).print(line, soft_wrap=True, highlight=False)


def launch_round(launch: Launch, index: int | None, *, with_prefect: bool) -> None:
    """Run one round with progress, then print its student."""

    def play(session: Session) -> None:
        if session.with_prefect:
            from flows.deploy import afd_round

            with _or_without(session), flow_runs.called(session.site.folder):
                afd_round(campaign=launch.name, round_index=chosen, **launch.folders)
        if not session.with_prefect:
            run_one_round(session, chosen)

    if index is not None:
        refuse_no_round(launch.name, launch.params, launch.paths, index)
    chosen = 0

    def choose(session: Session) -> None:
        nonlocal chosen
        chosen = chosen_round(session, index)

    _run(launch, play, with_prefect, "round", index, prepare=choose, last_round=lambda: chosen)
    paths = launch.paths
    after = state_before(launch.params, chosen + 1, Store(paths.store))
    student = after.rounds[chosen]["student"].fingerprint
    show = command("show", student[:8], runs=paths.runs, store=paths.store)
    console(None).print(f"student {student[:16]}\n  {show}", soft_wrap=True, highlight=False)


def resume(
    status: CampaignStatus,
    *,
    with_prefect: bool,
    acknowledge: bool = False,
    cluster: Path | None = None,
    cluster_overrides: Sequence[str] = (),
    dry_run: bool = False,
) -> None:
    """Run the last command of a campaign again, on the cluster that its file describes now.

    `acknowledge`: the alarm that paused it has been seen. `cluster`, `cluster_overrides`: instead
    of the file, over the overrides of that command. Raises RefusedError where that command is done,
    or an alarm waits to be acknowledged; ParamsError for a bad file.
    """
    last = status.last_command
    runs = status.folder.parent
    waits = alarm_log.paused_after(status.folder) is not None
    if waits and not acknowledge and last is not None:
        raise RefusedError(last.message or f"{status.name}: an alarm waits: --acknowledge")
    is_seen = acknowledge and status.state == "paused"
    if last is None or (status.state == "paused" and not is_seen):
        reason = (
            f"what was asked last ({last}) is done" if last else "nothing is known of its start"
        )
        raise RefusedError(
            f"{status.name}: {reason}\n  {goes_on(status)}    goes on with its rounds"
        )
    paths = CampaignPaths(runs, Path(last.store))
    params = chosen_params(status.name, paths, None)
    chosen, source = resumed_cluster(last, cluster, cluster_overrides)
    if acknowledge and not dry_run:  # nothing is refused any more
        alarm_log.acknowledge(status.folder)
    launch = Launch(status.name, params, chosen, paths, source)
    with_prefect = with_prefect and last.with_prefect
    if dry_run:
        index = last.round_index if last.kind == "round" else None
        launch.print_dry_run(last.kind, index, with_prefect=with_prefect, acknowledges=acknowledge)
    elif last.kind == "campaign":
        launch_campaign(launch, with_prefect=with_prefect)
    else:
        launch_round(launch, last.round_index, with_prefect=with_prefect)


def results_console() -> Console:
    """Return a console of 100 columns where the output is a file or a pipe."""
    return console(100)


def print_results(name: str, runs: Path) -> None:
    """Print the results, the paths of page and report, and the commands to look around."""
    folder = known_campaign(name, runs)
    summary, page = folder / SUMMARY, folder / REPORT_PAGE
    if not summary.exists():
        raise RefusedError(
            f"{folder}: no {SUMMARY}: the campaign is not finished\n"
            f"  {command('campaign', name, runs=runs)}    goes on with it"
        )
    out = results_console()
    out.print(results_table(summary))
    if (rounds := folder / PAGE).exists():
        out.print(f"page     {short_path(rounds)}", soft_wrap=True, highlight=False)
    out.print(f"report   {short_path(page)}", soft_wrap=True, highlight=False)
    for label, *words in (
        ("MLflow", "ui", name),
        ("sample", "sample", name, "--held-out", "4", "-o", f"{name}.mp4"),
        ("show", "show", name),
    ):
        out.print(f"{label:9}{command(*words, runs=runs)}", soft_wrap=True, highlight=False)


def _run(
    launch: Launch,
    play: Callable[[Session], None],
    with_prefect: bool,
    kind: CommandKind,
    round_index: int | None = None,
    *,
    prepare: Callable[[Session], None] | None = None,
    last_round: Callable[[], int | None] = lambda: None,
) -> None:
    """Hold the campaign; the worker imports while Prefect's server starts.

    `prepare` may refuse before anything starts.
    """
    screen = console(None)
    with ExitStack() as stack:
        session = stack.enter_context(
            open_campaign(
                launch.name,
                launch.paths,
                launch.params,
                launch.cluster,
                with_prefect=with_prefect,
                kind=kind,
                round_index=round_index,
                cluster_source=launch.cluster_source,
                params_source=launch.params_source,
                check=prepare,
            )
        )
        if session.is_complete:
            session.with_prefect = False  # nothing is computed: nothing to show
        else:
            session.dispatch.start()
        stack.enter_context(live_view(session, screen, last_round()))
        if session.with_prefect:
            _have_prefect(stack, session, screen)
        try:
            play(session)
        finally:
            if session.with_prefect:  # Ctrl-C is a cancellation, which Prefect calls a crash
                flow_runs.reconcile(session.site.folder, "crashed")


def _have_prefect(stack: ExitStack, session: Session, screen: Console) -> None:
    """Start or find a Prefect server and correct earlier runs; go on without one that fails."""
    try:
        paths = CampaignPaths(session.site.folder.parent, session.site.store.root)
        server = stack.enter_context(prefect_server(paths))
        if server is not None:
            takes = ", the first time for a minute or two" if server.is_new else ""
            with session.progress.busy(f"Prefect's server starts{takes}"):
                server.wait()
    except ServiceError as error:
        session.with_prefect = False
        screen.print(f"running without Prefect: {error}", soft_wrap=True, highlight=False)
    else:
        flow_runs.reconcile(session.site.folder, "crashed")


@contextmanager
def _or_without(session: Session) -> Iterator[None]:
    """Go on without Prefect where its server goes away; raise any other error of the flow."""
    try:
        yield
    except Exception as error:
        if not is_away(error):
            raise
        if (cause := unreported_error()) is not None:
            raise cause from None
        session.go_on_without_prefect(error)
