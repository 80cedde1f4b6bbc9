"""Prefect flows: deployments `afd/round` and `afd-campaign/campaign`.

afd up                            serves both in the background
prefect deployment run afd/round -p campaign=demo -p params=params/pocket.yaml
"""

import asyncio
import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.runtime import flow_run as this_run

from afd.failpoints import failpoint
from flows import alarm_log
from flows.campaign import chosen_round, run_campaign, run_one_round, run_round
from flows.command_text import CLUSTER
from flows.dry_run import state_before
from flows.inputs import chosen_cluster, chosen_params, named_teacher
from flows.last_command import ClusterSource, CommandKind
from flows.library_env import set_library_defaults
from flows.params_source import params_source
from flows.paths import CampaignPaths, teacher_name
from flows.prefect_runs import flow_runs
from flows.prefect_runs.final_states import ends_in_words, unreported_error
from flows.prefect_runs.flow_runs import Ended, remembered
from flows.prefect_runs.pages import (
    campaign_rows,
    flow_run_name,
    leave_alarms,
    leave_results,
    leave_round,
)
from flows.prefect_runs.reach import is_away
from flows.session import Session, open_campaign, session_of
from flows.state import CampaignState

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.runner import Runner

log = logging.getLogger(__name__)


def _round_name() -> str:
    """Return the name of a round's flow run."""
    chosen: dict[str, Any] = this_run.parameters
    teacher = _teacher(chosen)
    runs = Path(chosen.get("runs") or "runs")
    return flow_run_name(chosen["campaign"], runs, teacher, chosen.get("round_index"))


def _campaign_name() -> str:
    chosen: dict[str, Any] = this_run.parameters
    return "-".join(filter(None, (chosen["campaign"], _teacher(chosen))))


def _teacher(chosen: dict[str, Any]) -> str | None:
    paths = CampaignPaths(Path(chosen.get("runs") or "runs"), Path(chosen.get("store") or "store"))
    here = session_of(chosen["campaign"], paths)
    if here is not None:
        return teacher_name(here.params)
    return named_teacher(chosen["campaign"], paths, chosen.get("params"))


def _reconcile_cancelled(flow: object, flow_run: "FlowRun", state: object) -> None:
    """Reconcile in the serving process, after the run's own process has ended."""
    del flow, state
    _reconcile(flow_run, "cancelled")


def _reconcile_crashed(flow: object, flow_run: "FlowRun", state: object) -> None:
    """Reconcile a crashed run; its jobs go on, and the next command waits for them."""
    del flow, state
    _reconcile(flow_run, "crashed")


def _reconcile(run: "FlowRun", verdict: Ended) -> None:
    """Reconcile in another process: MLflow takes seconds to import, and runs are polled here."""
    if run.parent_task_run_id is not None:
        return  # a round of a campaign: the campaign's own run is reconciled too
    chosen = run.parameters
    name = str(chosen["campaign"])
    runs, store = (str(chosen.get(key) or key) for key in ("runs", "store"))
    if session_of(name, CampaignPaths(Path(runs), Path(store))) is not None:
        return  # the command line's own process: it reconciles when it has let go
    command = [sys.executable, "-m", "flows.reconcile", name, runs, store, verdict]
    subprocess.run(command, check=False, timeout=120)


ROUND = "One round of a campaign: its next one, or `round_index`."
CAMPAIGN = "A whole campaign, from prompts to report, its rounds as sub-flows."
HOOKS: dict[str, Any] = {
    "on_cancellation": [_reconcile_cancelled],
    "on_crashed": [_reconcile_crashed],
}


@flow(name="afd", flow_run_name=_round_name, persist_result=False, **HOOKS)
@ends_in_words
def afd_round(
    campaign: str,
    params: str | None = None,
    round_index: int | None = None,
    overlays: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
    cluster: str = str(CLUSTER),
    runs: str = "runs",
    store: str = "store",
    acknowledge: bool = False,
) -> str:
    """Run one round of a campaign; the result is the new student's fingerprint.

    Args:
        campaign: Name of the campaign, a folder below `runs`. A new name starts a new campaign.
        params: YAML file with all params, e.g. params/pocket.yaml. A new campaign needs it; leave
            it out to go on with one.
        round_index: Round to run, 0 for the first. Left out: the next one that is not finished.
        overlays: YAML files laid over `params`, the last one wins.
        overrides: Single values over those, as dotted.field=value, e.g. update.beta=0.2.
        cluster: YAML file that says where stages are computed.
        runs: Folder of the campaigns. `afd up` was typed for this one.
        store: Folder of everything computed; artifacts found there are not computed again.
        acknowledge: Tick after a pause by an alarm: you have seen it, the campaign goes on.
    """
    paths = CampaignPaths(Path(runs), Path(store))
    loading = (params, overlays, overrides, cluster)
    with _session(campaign, paths, *loading, "round", round_index) as session:
        if acknowledge:
            alarm_log.acknowledge(session.site.folder)
        state = run_one_round(session, round_index)
        made = state.rounds[-1]
        _show_round(session, state)
        return made["student"].fingerprint


@flow(name="afd-campaign", flow_run_name=_campaign_name, persist_result=False, **HOOKS)
@ends_in_words
def afd_campaign(
    campaign: str,
    params: str | None = None,
    overlays: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
    cluster: str = str(CLUSTER),
    runs: str = "runs",
    store: str = "store",
    acknowledge: bool = False,
) -> str:
    """Run a whole campaign, from prompts to report; the result is the path of its summary.

    Args:
        campaign: Name of the campaign, a folder below `runs`. A new name starts a new campaign; a
            known one goes on from the last thing that is finished.
        params: YAML file with all params, e.g. params/pocket.yaml. A new campaign needs it; leave
            it out to go on with one.
        overlays: YAML files laid over `params`, the last one wins.
        overrides: Single values over those, as dotted.field=value, e.g. update.beta=0.2.
        cluster: YAML file that says where stages are computed.
        runs: Folder of the campaigns. `afd up` was typed for this one.
        store: Folder of everything computed; artifacts found there are not computed again.
        acknowledge: Tick after a pause by an alarm: you have seen it, the campaign goes on.
    """
    paths = CampaignPaths(Path(runs), Path(store))

    def play(session: Session, state: CampaignState) -> CampaignState:
        index = len(state.rounds)
        if not session.with_prefect:
            return run_round(session, state)
        try:
            _sub_round(campaign=campaign, round_index=index, runs=runs, store=store)
        except Exception as error:
            if not is_away(error):
                raise
            if (ended_in := unreported_error()) is not None:
                raise ended_in from None
            session.go_on_without_prefect(error)
            return run_round(session, state)  # what the sub-flow made is found in the store
        return state_before(session.params, index + 1, session.site.store)

    loading = (params, overlays, overrides, cluster)
    with _session(campaign, paths, *loading, "campaign") as session:
        if acknowledge:
            alarm_log.acknowledge(session.site.folder)
        left = run_campaign(session, play)
        if session.with_prefect:
            rows = campaign_rows(left.summary)
            leave_results(session.site.folder, session.recorder.tracking_uri, rows)
        return str(left.summary)


@flow(name="afd", flow_run_name=_round_name, persist_result=False)
@ends_in_words
def _sub_round(campaign: str, round_index: int, runs: str, store: str) -> str:
    """Run the same flow inside a campaign, after all earlier rounds."""
    session = session_of(campaign, CampaignPaths(Path(runs), Path(store)))
    if session is None:
        raise RuntimeError(f"campaign {campaign!r} is not held by this process")
    with remembered(session.site.folder):
        state = state_before(session.params, round_index, session.site.store)
        after = run_round(session, state)
        _show_round(session, after)
        return after.rounds[-1]["student"].fingerprint


def _show_round(session: Session, after: CampaignState) -> None:
    """Leave in Prefect what the last round measured, and what alarms said of it."""
    if session.with_prefect:
        evaluation = session.site.store.load(after.rounds[-1]["evaluation"])
        leave_round(session.site.folder, len(after.rounds) - 1, evaluation.manifest.summary)
        leave_alarms(session.site.folder)


@contextmanager
def _session(
    campaign: str,
    paths: CampaignPaths,
    params: str | None,
    overlays: tuple[str, ...],
    overrides: tuple[str, ...],
    cluster: str,
    kind: CommandKind,
    round_index: int | None = None,
) -> Iterator[Session]:
    """Yield the session that this process has open, or open the campaign."""
    here = session_of(campaign, paths)
    failpoint("flow.run_begun")
    if here is not None:
        with remembered(here.site.folder):
            yield here
        return
    loaded = chosen_params(campaign, paths, params, overlays, overrides)
    with open_campaign(
        campaign,
        paths,
        loaded,
        chosen_cluster(cluster),
        with_prefect=True,
        kind=kind,
        round_index=round_index,
        cluster_source=ClusterSource.of(cluster),
        params_source=params_source(params, overlays, overrides, loaded),
        check=partial(_refuse_no_round, round_index) if kind == "round" else None,
    ) as session:
        flow_runs.reconcile(session.site.folder, "crashed")  # what an earlier, killed process left
        with remembered(session.site.folder):
            yield session


def _refuse_no_round(index: int | None, session: Session) -> None:
    chosen_round(session, index)


def main(ready: Path | None = None, runs: str = "runs", store: str = "store") -> None:
    """Register both deployments and serve their runs until stopped.

    `ready` is made when both are registered; `runs` and `store` are where campaigns live unless a
    run says otherwise.
    """
    from prefect.runner import Runner

    set_library_defaults()
    runner = Runner(name="afd", pause_on_shutdown=False)
    paths = {name: str(Path(place).resolve()) for name, place in (("runs", runs), ("store", store))}
    deployments: tuple[Any, ...] = (
        afd_round.to_deployment("round", parameters=paths, description=ROUND),
        afd_campaign.to_deployment("campaign", parameters=paths, description=CAMPAIGN),
    )
    for deployment in deployments:
        runner.add_deployment(deployment)
        sys.stdout.write(f"{deployment.flow_name}/{deployment.name} is served\n")
    sys.stdout.flush()
    if ready is not None:
        ready.touch()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(runner))


async def _serve(runner: "Runner") -> None:
    """Serve until SIGTERM, which cancels the runs and their jobs."""
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        asyncio.run_coroutine_threadsafe(runner.astop(), loop)

    runner.handle_sigterm = stop  # Prefect 3.8's own never awaits what it calls
    await runner.start()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None, *sys.argv[2:])
