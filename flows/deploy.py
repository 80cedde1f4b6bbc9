"""The two flows as Prefect knows them: deployments `afd/round` and `afd-campaign/campaign`.

python -m flows.deploy            serve both against the running server
prefect deployment run afd/round -p campaign=demo -p params=params/pocket.yaml
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, serve
from prefect.runtime import flow_run

from flows.campaign import run_campaign, run_one_round
from flows.choices import chosen_cluster, chosen_params
from flows.round import Standing, run_round, standing_before
from flows.session import Places, Session, held, opened

LOCAL = "params/cluster/local.yaml"


def _name() -> str:
    """What the run is called in the UI."""
    chosen: dict[str, Any] = flow_run.parameters
    index = chosen.get("round_index")
    round_name = "next-round" if index is None else f"round-{index:03d}"
    return f"{chosen['campaign']}-{round_name}"


@flow(name="afd", flow_run_name=_name, persist_result=False)
def afd_round(
    campaign: str,
    params: str | None = None,
    round_index: int | None = None,
    overlays: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
    cluster: str = LOCAL,
    runs: str = "runs",
    store: str = "store",
) -> str:
    """One round of a campaign, by default its next one; gives the new student's fingerprint."""
    places = Places(Path(runs), Path(store))
    with _session(campaign, places, params, overlays, overrides, cluster) as session:
        return run_one_round(session, round_index).student.fingerprint


@flow(name="afd-campaign", flow_run_name="{campaign}", persist_result=False)
def afd_campaign(
    campaign: str,
    params: str | None = None,
    overlays: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
    cluster: str = LOCAL,
    runs: str = "runs",
    store: str = "store",
) -> str:
    """A whole campaign, rounds as sub-flows; gives the path of its summary."""
    places = Places(Path(runs), Path(store))

    def play(session: Session, standing: Standing) -> Standing:
        index = len(standing.rounds)
        _sub_round(campaign=campaign, round_index=index, runs=runs, store=store)
        return standing_before(session.params, index + 1)

    with _session(campaign, places, params, overlays, overrides, cluster) as session:
        return str(run_campaign(session, play).summary)


@flow(name="afd", flow_run_name=_name, persist_result=False)
def _sub_round(campaign: str, round_index: int, runs: str, store: str) -> str:
    """The same flow inside a campaign, which has seen to everything before this round."""
    session = held(campaign, Places(Path(runs), Path(store)))
    if session is None:
        raise RuntimeError(f"campaign {campaign!r} is not held by this process")
    standing = standing_before(session.params, round_index)
    return run_round(session, standing).student.fingerprint


@contextmanager
def _session(
    campaign: str,
    places: Places,
    params: str | None,
    overlays: tuple[str, ...],
    overrides: tuple[str, ...],
    cluster: str,
) -> Iterator[Session]:
    """The campaign that this process holds already (the command line's), or held from here on."""
    here = held(campaign, places)
    if here is not None:
        yield here
        return
    loaded = chosen_params(campaign, places, params, overlays, overrides)
    with opened(campaign, places, loaded, chosen_cluster(cluster), with_prefect=True) as session:
        yield session


def main() -> None:
    """Register both deployments and run what is asked of them until stopped."""
    from flows.quiet import be_quiet

    be_quiet()
    serve(afd_round.to_deployment("round"), afd_campaign.to_deployment("campaign"))


if __name__ == "__main__":
    main()
