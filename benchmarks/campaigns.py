"""Campaigns to time: a folder with git and DVC, the stages in order, the command as a process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from afd.artifacts import ArtifactRef
from afd.config import Params
from afd.runtime.request import StageRequest
from afd.store import Store
from flows.baselines import play_round, play_start
from flows.campaign import play_final
from flows.library_env import DEFAULTS
from flows.paths import CampaignPaths
from flows.prefect_runs.services import OwnPrefect
from flows.tasks import Pending, Ready

PROJECT = Path(__file__).resolve().parents[1]
CLUSTER = PROJECT / "params" / "cluster" / "local.yaml"


class Requests:
    """Recorder of a campaign's stage requests, in order."""

    def __init__(self) -> None:
        self.made: list[StageRequest] = []

    def make(self, request: StageRequest) -> ArtifactRef:
        self.made.append(request)
        return request.output

    def begin(self, request: StageRequest) -> Pending:
        return Ready(self.make(request))

    def summary(self, ref: ArtifactRef) -> dict[str, object]:
        return {}


def requests_of(params: Params) -> list[StageRequest]:
    """Return all stage requests of a campaign, each after those that it needs."""
    requests = Requests()
    state = play_start(requests, params)
    for _ in range(params.num_rounds):
        state = play_round(requests, params, state)
    play_final(requests, params, state)
    return requests.made


@dataclass(frozen=True)
class Folder:
    """A folder like a clone, with git, DVC, runs and store."""

    path: Path

    @property
    def places(self) -> CampaignPaths:
        return CampaignPaths(self.path / "runs", self.path / "store")

    @property
    def store(self) -> Store:
        return Store(self.path / "store")

    def afd(self, *arguments: str, **environment: str) -> float:
        """Return the wall seconds of one afd command, from the process's start to its end."""
        command = [sys.executable, "-m", "flows.cli", *arguments]
        command += ["--runs", str(self.places.runs), "--store", str(self.places.store)]
        return self.run(command, **environment)

    def run(self, command: Sequence[str], **environment: str) -> float:
        all_variables = {**os.environ, **DEFAULTS, "PYTHONPATH": str(PROJECT), **environment}
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.path, env=all_variables, check=False, capture_output=True, text=True
        )
        wall_s = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return wall_s


@contextmanager
def folder() -> Iterator[Folder]:
    """Make an empty folder, removed at the end."""
    with TemporaryDirectory() as name:
        made = Folder(Path(name))
        made.run(["git", "init", "--quiet"])
        made.run([sys.executable, "-m", "dvc", "init", "--quiet"])
        yield made


@contextmanager
def prefect_server(at: Folder) -> Iterator[tuple[str, float]]:
    """Run a server of this folder; yield its API and the seconds of its first start."""
    started = time.perf_counter()
    own = OwnPrefect(at.places)
    own.start()
    own.configure()
    own.wait()
    try:
        yield own.api, time.perf_counter() - started
    finally:
        own.let_go()
        for name in ("PREFECT_HOME", "PREFECT_API_URL"):
            os.environ.pop(name, None)
