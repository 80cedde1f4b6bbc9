"""A Prefect server that hangs, refuses us or is broken: campaigns run on without it and say so."""

import pytest

from afd.config import Cluster, Params
from afd.params import load_params
from flows.commands import launch
from flows.commands.launch import Launch, launch_campaign
from flows.paths import CampaignPaths
from flows.prefect_runs import reach
from flows.session import Session
from tests.flows.conftest import CLUSTER, PARAMS
from tests.flows.unwell import Door, Mood


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> CampaignPaths:
    """One MLflow database for all: making it takes seconds."""
    folder = tmp_path_factory.mktemp("unwell")
    return CampaignPaths(folder / "runs", folder / "store")


@pytest.mark.parametrize(
    ("mood", "told"),
    [
        ("hangs", "does not answer (timed out): start it, or unset PREFECT_API_URL"),
        ("shut", "does not answer"),
        ("401", "refuses us (HTTP 401): set PREFECT_API_KEY or PREFECT_API_AUTH_STRING"),
        ("500", "answers HTTP 500 Internal Server Error: look into its log"),
    ],
)
def test_a_campaign_runs_without_it(
    paths: CampaignPaths,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mood: Mood,
    told: str,
) -> None:
    played: list[bool] = []

    def play(session: Session) -> None:
        played.append(session.with_prefect)

    door = Door(behind=1)
    door.mood = mood
    monkeypatch.setattr(reach, "PATIENCE_S", 0.5)
    monkeypatch.setenv("PREFECT_API_URL", f"{door.url}/api")
    monkeypatch.setattr(launch, "run_campaign", play)
    monkeypatch.setattr(launch, "print_results", lambda *_: None)
    cluster = load_params(Cluster, CLUSTER, (), ["executor=in_process"])
    launch_campaign(
        Launch(f"when-{mood}", load_params(Params, PARAMS), cluster, paths), with_prefect=True
    )
    assert played == [False]
    said = " ".join(capsys.readouterr().out.split())
    assert f"running without Prefect: the Prefect server at {door.url}/api {told}" in said
    door.close()
