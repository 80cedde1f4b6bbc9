"""The recorder against a real MLflow server that fails: recorded later, each once."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.library_env import DEFAULTS
from flows.mlflow_runs import recorder
from flows.mlflow_runs.client import Unavailable
from flows.mlflow_runs.recorder import RunRecorder
from flows.mlflow_runs.run_ids import RunIds
from flows.mlflow_runs.runs import CampaignRuns
from tests.flows.campaign_on_disk import CampaignOnDisk, make_campaign, small_params
from tests.flows.unwell import Door, Mood


class Server:
    """`mlflow server` on sqlite, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, **DEFAULTS},
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def door(server: Server) -> Iterator[Door]:
    door = Door(server.port)
    yield door
    door.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own patience is minutes; ours is set for a campaign of hours."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(recorder, "RETRY_AFTER_S", 0.5)
    monkeypatch.setattr(recorder, "SERVER_PATIENCE_S", 120.0)  # a loaded machine


def campaign(folder: Path, name: str) -> CampaignOnDisk:
    return make_campaign(folder / name, small_params(), num_rounds=1)


def play(made: CampaignOnDisk, url: str) -> None:
    made.write_folder()
    own = RunRecorder(url, made.folder, made.store)
    own.open()
    for index, request, _ in made.made:
        with own.computing(index, request):
            pass
        own.record(index, request)
    own.close("finished")


def sync(made: CampaignOnDisk, url: str) -> None:
    """What `afd sync` does, until a loaded machine has answered in time."""
    deadline = time.monotonic() + 240
    while True:
        try:
            CampaignRuns(url, made.folder, made.store).sync(status="finished", again=True)
            return
        except Unavailable:
            assert time.monotonic() < deadline


def rows(url: str, folder: Path) -> dict[str, object]:
    """Every run of the campaign of `folder`, with what a replay could spoil."""
    client = MlflowClient(url, url)
    found = client.get_experiment_by_name("afd")
    assert found is not None
    mine = RunIds(folder).read("identity")["campaign_id"]
    runs = client.search_runs(
        [found.experiment_id], f"tags.`afd.campaign_id` = '{mine}'", max_results=1000
    )
    assert len({run.data.tags["afd.key"] for run in runs}) == len(runs)  # each once
    return {
        run.data.tags["afd.key"]: (
            run.info.status,
            run.data.params,
            {
                name: sorted((m.step, m.value) for m in history)  # each once; starts differ
                for name in run.data.metrics
                if (history := client.get_metric_history(run.info.run_id, name))
            },
            sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        )
        for run in runs
    }


@pytest.fixture(scope="module")
def expected(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a server that is well is told."""
    made = campaign(tmp_path_factory.mktemp("well"), "well")
    url = f"http://127.0.0.1:{server.port}"
    play(made, url)
    sync(made, url)
    found = rows(url, made.folder)
    assert {status for status, *_ in found.values()} == {"FINISHED"}  # type: ignore[misc]
    return found


@pytest.mark.parametrize("mood", ["shut", "401", "hangs"])
def test_a_server_in_trouble_is_told_everything_once_when_it_is_well(
    door: Door, expected: dict[str, object], tmp_path: Path, mood: Mood
) -> None:
    made = campaign(tmp_path, mood)
    door.mood = mood
    play(made, door.url)  # returns
    assert not RunIds(made.folder).is_finished("campaign")
    door.mood = "well"
    sync(made, door.url)
    assert rows(door.url, made.folder) == expected


def test_a_slow_server_is_told_everything_once(
    door: Door, expected: dict[str, object], tmp_path: Path
) -> None:
    made = campaign(tmp_path, "slow")
    door.mood = "slow"
    play(made, door.url)
    door.mood = "well"
    sync(made, door.url)  # what it was too slow for
    assert rows(door.url, made.folder) == expected


def test_trouble_in_the_middle_when_the_server_has_written_but_said_500(
    door: Door, expected: dict[str, object], tmp_path: Path
) -> None:
    made = campaign(tmp_path, "middle")
    door.fails_after = 40
    play(made, door.url)
    assert door.mood == "500"
    door.mood = "well"
    sync(made, door.url)
    assert rows(door.url, made.folder) == expected


def test_the_real_server_killed_and_started_again(
    server: Server, expected: dict[str, object], tmp_path: Path
) -> None:
    made = campaign(tmp_path, "killed")
    url = f"http://127.0.0.1:{server.port}"
    made.write_folder()
    own = RunRecorder(url, made.folder, made.store)
    own.open()
    _, request, artifact = made.made[0]
    own.record(None, request)
    deadline = time.monotonic() + 60
    while not own.ids.is_finished(artifact.ref.fingerprint[:16]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.kill()
    for at, other, _ in made.made[1:3]:
        own.record(at, other)
    own.close("killed")
    server.start()
    sync(made, url)
    assert rows(url, made.folder) == expected
