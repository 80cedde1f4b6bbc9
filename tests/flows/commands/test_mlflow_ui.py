"""`afd ui` in a shell that is full of settings for the team's own MLflow server."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from mlflow import MlflowClient

PATIENCE_S = 240.0


def test_a_server_of_ours_takes_nothing_that_was_meant_for_theirs(
    tmp_path: Path, empty_database: bytes
) -> None:
    theirs = tmp_path / "theirs"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    database = tmp_path / "runs" / ".services" / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(empty_database)
    shell = {
        "MLFLOW_REGISTRY_STORE_URI": f"sqlite:///{theirs}-registry.db",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{theirs}-runs.db",
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(theirs),
        "MLFLOW_ARTIFACTS_DESTINATION": str(theirs),
        "MLFLOW_STATIC_PREFIX": "/theirs",
        "UVICORN_ROOT_PATH": "/theirs",
    }
    log = tmp_path / "log"
    command = [sys.executable, "-m", "flows.cli", "ui", "--runs", "runs", "--port", str(port)]
    place = {"PYTHONPATH": str(Path(__file__).parents[3])}
    with log.open("wb") as out:
        ui = subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | shell | place, stdout=out, stderr=out
        )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + PATIENCE_S
    while b"pages" not in log.read_bytes():
        assert ui.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    urllib.request.urlopen(f"{address}/health", timeout=60).close()
    client = MlflowClient(address, address)
    client.create_registered_model("ours")
    made = client.get_experiment(client.create_experiment("ours"))
    ui.send_signal(signal.SIGINT)
    ui.wait(PATIENCE_S)
    assert str(theirs) not in str(made.artifact_location)
    assert not list(tmp_path.glob("theirs*"))
    kept = MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}")
    assert [one.name for one in kept.search_registered_models()] == ["ours"]
