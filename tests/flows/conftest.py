"""What tests of whole campaigns share: the tiny params and preloaded processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PARAMS = PROJECT / "params" / "tiny.yaml"
CLUSTER = PROJECT / "params" / "cluster" / "local.yaml"


@dataclass
class Forge:
    """Runs `afd` commands as real processes that share their imports (forge.py)."""

    process: "subprocess.Popen[str]"
    runs: Path

    def afd(
        self, *arguments: str, store: Path, log: Path, failpoint: str = "", **environ: str
    ) -> int:
        """The exit code of one command on the tiny params, computed in its own process, without
        Prefect; negative: the signal that killed it."""
        asked = {
            "arguments": [
                *arguments,
                *("--no-prefect", "--params", str(PARAMS), "--cluster", str(CLUSTER)),
                *("--set-cluster", "executor=in_process"),
                *("--runs", str(self.runs), "--store", str(store)),
            ],
            "environment": {"AFD_FAILPOINT": failpoint, "AFD_CHECKPOINT_PERIOD_S": "0"} | environ,
            "log": str(log),
        }
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "the forge died: see its stderr"
        return int(answer)


@dataclass
class Finished:
    """A finished tiny campaign that many tests read and none changes."""

    folder: Path
    store: Path
    log: Path


@pytest.fixture(autouse=True)
def no_address_left_behind() -> Iterator[None]:
    """MLflow's library leaves the address it was asked at last in its process's environment."""
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A new database of MLflow takes six seconds: made once, copied for each test."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file.read_bytes()


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forge.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )
    yield Forge(process, tmp_path_factory.mktemp("runs"))
    assert process.stdin is not None
    process.stdin.close()
    process.wait(30)


@pytest.fixture(scope="session")
def finished(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("campaign")
    left = Finished(forge.runs / "campaign", folder / "store", folder / "log")
    code = forge.afd("campaign", "--name", "campaign", store=left.store, log=left.log)
    assert code == 0, left.log.read_text()
    return left
