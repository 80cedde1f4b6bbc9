"""A folder with a Prefect server and deployments of its own, and what an operator types there."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.commands.up import Up, bring_up, take_down
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds
from flows.paths import CampaignPaths
from tests.flows.conftest import CLUSTER, PARAMS, PROJECT

PATIENCE_S = 240.0
SLOW = "warmstart.num_steps=20000"  # nobody waits for its end


@dataclass
class Here:
    """A folder with services of its own."""

    folder: Path
    up: Up
    cluster: Path = CLUSTER
    chosen: tuple[str, ...] = (SLOW,)  # over the tiny params

    @property
    def paths(self) -> CampaignPaths:
        return CampaignPaths(self.folder / "runs", self.folder / "store")

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PREFECT_API_URL": self.up.api, "PYTHONPATH": str(PROJECT)}

    def afd(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "flows.cli", *arguments, "--runs", str(self.paths.runs)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=self.environment,
            timeout=PATIENCE_S,
        )

    def start(self, name: str, kind: str = "campaign", **more: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "flows.cli", kind, "--name", name]
        if kind != "resume":
            command += ["--params", str(PARAMS), "--cluster", str(self.cluster)]
            command += [word for one in self.chosen for word in ("--set", one)]
            command += ["--store", str(self.paths.store)]
        command += ["--runs", str(self.paths.runs)]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment | more,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def deploy(self, name: str, deployment: str = "afd-campaign/campaign") -> None:
        command = [sys.executable, "-m", "prefect", "deployment", "run", deployment]
        chosen = {"campaign": name, "params": str(PARAMS), "cluster": str(self.cluster)}
        for key, value in chosen.items():
            command += ["-p", f"{key}={value}"]
        command += ["-p", f"overrides={json.dumps(self.chosen)}"]
        subprocess.run(command, check=True, env=self.environment, capture_output=True, timeout=120)

    def computing(self, name: str) -> set[int]:
        """The processes of its jobs, once the slow stage runs."""
        file = self.paths.runs / name / "ledger" / "worker.json"
        logs = self.paths.runs / name / "logs"
        wait_for(lambda: any(logs.glob("warmstart-*.log")))
        controller = psutil.Process(json.loads(file.read_bytes())["jobs"][-1]["process"]["pid"])
        return {one.pid for one in [controller, *controller.children(recursive=True)]}

    def states(self, name: str) -> set[str]:
        """Of every flow and task run of a campaign, in Prefect."""
        from prefect.client.orchestration import SyncPrefectClient
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
        from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort

        with SyncPrefectClient(self.up.api) as client:
            runs = client.read_flow_runs(limit=100, sort=FlowRunSort.START_TIME_ASC)
            mine = [run for run in runs if run.parameters.get("campaign") == name]
            found = {str(run.state_name) for run in mine}
            only = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in mine]))
            tasks = client.read_task_runs(flow_run_filter=only, sort=TaskRunSort.ID_DESC)
            return found | {str(task.state_name) for task in tasks} - {"Completed"}

    def cancel_in_prefect(self, name: str) -> None:
        """What the button does."""
        from prefect.client.orchestration import SyncPrefectClient
        from prefect.client.schemas.sorting import FlowRunSort
        from prefect.states import Cancelling

        with SyncPrefectClient(self.up.api) as client:
            (run,) = [
                run
                for run in client.read_flow_runs(limit=100, sort=FlowRunSort.START_TIME_ASC)
                if run.parameters.get("campaign") == name and run.parent_task_run_id is None
            ]
            client.set_flow_run_state(run.id, Cancelling())

    def in_mlflow(self, name: str) -> str:
        return str(RunIds(self.paths.runs / name).read(CAMPAIGN).get("state"))


def wait_for(so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def gone(pids: set[int]) -> bool:
    def lives(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    wait_for(lambda: not any(map(lives, pids)))
    return True


@contextlib.contextmanager
def services(folder: Path) -> Iterator[Here]:
    """`afd up` in `folder`, which is the current one meanwhile, and `afd down`."""
    before, at = dict(os.environ), Path.cwd()
    os.chdir(folder)  # `up` writes prefect.toml here
    paths = CampaignPaths(folder / "runs", folder / "store")
    try:
        up, _ = bring_up(paths)
        yield Here(folder, up)
        take_down(paths)
        assert not up.serving.is_alive()
        assert not (folder / "prefect.toml").exists()
    finally:
        os.chdir(at)
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
