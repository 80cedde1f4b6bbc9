"""Campaigns to time: a folder with git and dvc, the stages in order, the command as a process."""

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
from flows.campaign import play_final
from flows.library_env import DEFAULTS
from flows.paths import CampaignPaths
from flows.prefect_runs.services import OwnPrefect
from flows.round import play_round, play_start
from flows.tasks import Pending, Ready

PROJECT = Path(__file__).resolve().parents[1]
CLUSTER = PROJECT / "params" / "cluster" / "local.yaml"


class Requests:
    """Collects what a campaign asks for, in order."""

    def __init__(self) -> None:
        self.asked: list[StageRequest] = []

    def make(self, request: StageRequest) -> ArtifactRef:
        self.asked.append(request)
        return request.output

    def begin(self, request: StageRequest) -> Pending:
        return Ready(self.make(request))

    def summary(self, ref: ArtifactRef) -> dict[str, object]:
        return {}


def requests_of(params: Params) -> list[StageRequest]:
    """Every stage of a campaign, in an order that can be computed one after the other."""
    requests = Requests()
    state = play_start(requests, params)
    for _ in range(params.num_rounds):
        state = play_round(requests, params, state)
    play_final(requests, params, state)
    return requests.asked


@dataclass(frozen=True)
class Folder:
    """A clone-like folder: git, dvc, runs and store."""

    path: Path

    @property
    def places(self) -> CampaignPaths:
        return CampaignPaths(self.path / "runs", self.path / "store")

    @property
    def store(self) -> Store:
        return Store(self.path / "store")

    def afd(self, *arguments: str, **environment: str) -> float:
        """Wall seconds of one command from process start to its end."""
        command = [sys.executable, "-m", "flows.cli", *arguments]
        command += ["--runs", str(self.places.runs), "--store", str(self.places.store)]
        return self.run(command, **environment)

    def run(self, command: Sequence[str], **environment: str) -> float:
        everything = {**os.environ, **DEFAULTS, "PYTHONPATH": str(PROJECT), **environment}
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=self.path, env=everything, check=False, capture_output=True, text=True
        )
        wall_s = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return wall_s


@contextmanager
def folder() -> Iterator[Folder]:
    """An empty one, gone afterwards."""
    with TemporaryDirectory() as name:
        made = Folder(Path(name))
        made.run(["git", "init", "--quiet"])
        made.run([sys.executable, "-m", "dvc", "init", "--quiet"])
        yield made


@contextmanager
def prefect_server(at: Folder) -> Iterator[tuple[str, float]]:
    """The API of a running server of this folder, and how long its first start took."""
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
