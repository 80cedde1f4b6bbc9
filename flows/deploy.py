"""The two flows as Prefect knows them: deployments `afd/round` and `afd-campaign/campaign`.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.runtime import flow_run as this_run

from afd.failpoints import failpoint
from flows import decisions
from flows.asked import ClusterSource, Doing
from flows.campaign import run_campaign, run_one_round, run_round
from flows.choices import chosen_cluster, chosen_params, named_teacher
from flows.foreseen import standing_before
from flows.invocation import CLUSTER
from flows.params_source import params_source
from flows.places import Places, campaign_folder, teacher_name
from flows.prefect_runs import flow_runs
from flows.prefect_runs.flow_runs import Ended, remembered
from flows.prefect_runs.pages import (
    campaign_rows,
    flow_run_name,
    leave_alarms,
    leave_results,
    round_rows,
)
from flows.prefect_runs.reach import is_away
from flows.quiet import be_quiet
from flows.session import Session, held, opened
from flows.standing import Standing

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.runner import Runner

log = logging.getLogger(__name__)


def _round_name() -> str:
    """What the run of a round is called in the UI."""
    chosen: dict[str, Any] = this_run.parameters
    teacher = _teacher(chosen)
    runs = Path(chosen.get("runs") or "runs")
    return flow_run_name(chosen["campaign"], runs, teacher, chosen.get("round_index"))


def _campaign_name() -> str:
    chosen: dict[str, Any] = this_run.parameters
    return "-".join(filter(None, (chosen["campaign"], _teacher(chosen))))


def _teacher(chosen: dict[str, Any]) -> str | None:
    places = Places(Path(chosen.get("runs") or "runs"), Path(chosen.get("store") or "store"))
    here = held(chosen["campaign"], places)
    if here is not None:
        return teacher_name(here.params)
    return named_teacher(chosen["campaign"], places, chosen.get("params"))


def _settle_cancelled(flow: object, flow_run: "FlowRun", state: object) -> None:
    """In the serving process, when the run's own process is gone."""
    del flow, state
    _settle(flow_run, "cancelled")


def _settle_crashed(flow: object, flow_run: "FlowRun", state: object) -> None:
    """Jobs go on: the next command waits for them instead of submitting them again."""
    del flow, state
    _settle(flow_run, "crashed")


def _settle(run: "FlowRun", verdict: Ended) -> None:
    """In a process of its own: MLflow takes seconds to import, and runs are polled here."""
    if run.parent_task_run_id is not None:
        return  # a round of a campaign: the campaign's own run is told too
    chosen = run.parameters
    name = str(chosen["campaign"])
    runs, store = (str(chosen.get(key) or key) for key in ("runs", "store"))
    if held(name, Places(Path(runs), Path(store))) is not None:
        return  # the command line's own process: it settles when it has let go
    command = [sys.executable, "-m", "flows.settle", name, runs, store, verdict]
    subprocess.run(command, check=False, timeout=120)


HOOKS: dict[str, Any] = {"on_cancellation": [_settle_cancelled], "on_crashed": [_settle_crashed]}


@flow(name="afd", flow_run_name=_round_name, persist_result=False, **HOOKS)
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
    """One round of a campaign, by default its next one; gives the new student's fingerprint.

    `acknowledge`: the alarm that paused the campaign has been seen.
    """
    places = Places(Path(runs), Path(store))
    if acknowledge:
        decisions.acknowledge(campaign_folder(campaign, places))
    loading = (params, overlays, overrides, cluster)
    with _session(campaign, places, *loading, "round", round_index) as session:
        standing = run_one_round(session, round_index)
        made = standing.rounds[-1]
        evaluation = session.site.store.load(made["evaluation"])
        rows = round_rows(evaluation.manifest.summary)
        _leave(session, rows, f"{campaign}, round {len(standing.rounds) - 1}: held out")
        if session.with_prefect:
            leave_alarms(session.site.folder)
        return made["student"].fingerprint


@flow(name="afd-campaign", flow_run_name=_campaign_name, persist_result=False, **HOOKS)
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
    """A whole campaign, rounds as sub-flows; gives the path of its summary.

    `acknowledge`: the alarm that paused it has been seen.
    """
    places = Places(Path(runs), Path(store))
    if acknowledge:
        decisions.acknowledge(campaign_folder(campaign, places))

    def play(session: Session, standing: Standing) -> Standing:
        index = len(standing.rounds)
        if not session.with_prefect:
            return run_round(session, standing)
        try:
            _sub_round(campaign=campaign, round_index=index, runs=runs, store=store)
        except Exception as error:
            if not is_away(error):
                raise
            session.go_on_without_prefect(error)
            return run_round(session, standing)  # what the sub-flow made is found in the store
        return standing_before(session.params, index + 1, session.site.store)

    loading = (params, overlays, overrides, cluster)
    with _session(campaign, places, *loading, "campaign") as session:
        left = run_campaign(session, play)
        _leave(session, campaign_rows(left.summary), f"{campaign}: held-out prompts")
        return str(left.summary)


@flow(name="afd", flow_run_name=_round_name, persist_result=False)
def _sub_round(campaign: str, round_index: int, runs: str, store: str) -> str:
    """The same flow inside a campaign, which has seen to everything before this round."""
    session = held(campaign, Places(Path(runs), Path(store)))
    if session is None:
        raise RuntimeError(f"campaign {campaign!r} is not held by this process")
    with remembered(session.site.folder):
        standing = standing_before(session.params, round_index, session.site.store)
        made = run_round(session, standing).rounds[-1]
        leave_alarms(session.site.folder)
        return made["student"].fingerprint


def _leave(session: Session, rows: list[dict[str, Any]], said: str) -> None:
    if session.with_prefect:
        leave_results(session.site.folder, session.recorder.tracking_uri, rows, said)


@contextmanager
def _session(
    campaign: str,
    places: Places,
    params: str | None,
    overlays: tuple[str, ...],
    overrides: tuple[str, ...],
    cluster: str,
    doing: Doing,
    round_index: int | None = None,
) -> Iterator[Session]:
    """The campaign that this process holds already (the command line's), or held from here on."""
    here = held(campaign, places)
    failpoint("flow.run_begun")
    if here is not None:
        with remembered(here.site.folder):
            yield here
        return
    loaded = chosen_params(campaign, places, params, overlays, overrides)
    with opened(
        campaign,
        places,
        loaded,
        chosen_cluster(cluster),
        with_prefect=True,
        doing=doing,
        round_index=round_index,
        cluster_source=ClusterSource.of(cluster),
        params_source=params_source(params, overlays, overrides, loaded),
    ) as session:
        flow_runs.settle(session.site.folder, "crashed")  # what an earlier, killed process left
        with remembered(session.site.folder):
            yield session


def main(ready: Path | None = None, runs: str = "runs", store: str = "store") -> None:
    """Register both deployments and run what is asked of them until stopped.

    `ready` is made when both are registered; `runs` and `store` are where campaigns live unless a
    run says otherwise.
    """
    from prefect.runner import Runner

    be_quiet()
    runner = Runner(name="afd", pause_on_shutdown=False)
    places = {
        name: str(Path(place).resolve()) for name, place in (("runs", runs), ("store", store))
    }
    for deployment in (
        afd_round.to_deployment("round", parameters=places),
        afd_campaign.to_deployment("campaign", parameters=places),
    ):
        runner.add_deployment(deployment)
        sys.stdout.write(f"{deployment.flow_name}/{deployment.name} is served\n")
    sys.stdout.flush()
    if ready is not None:
        ready.touch()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(runner))


async def _serve(runner: "Runner") -> None:
    """Until SIGTERM: then runs are cancelled, orderly, and so are their jobs."""
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        asyncio.run_coroutine_threadsafe(runner.astop(), loop)

    runner.handle_sigterm = stop  # Prefect 3.8's own never awaits what it calls
    await runner.start()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None, *sys.argv[2:])
