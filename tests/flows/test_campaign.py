"""A whole campaign with the real stages at the tiny params: what it leaves, and run again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from afd.artifacts import ArtifactRef
from afd.config import Params
from afd.params import load_params
from afd.store import Store
from flows.dry_run import state_before
from flows.paths import CampaignPaths
from flows.prefect_runs.services import OwnPrefect
from tests.flows.conftest import CLUSTER, PARAMS, PROJECT, Finished, Forge

METRICS = {
    "trajectory_error_px",
    "gravity",
    "object_permanence",
    "interpenetration",
    "frechet_distance",
}
STAGES = {"prompts", "harvest", "warmstart", "rollout", "fit", "update", "evaluate", "report"}
PATIENCE_S = 200.0


def test_the_summary_says_what_was_measured_and_what_it_cost(finished: Finished) -> None:
    summary = json.loads((finished.folder / "summary.json").read_bytes())
    assert set(summary["metrics"]) >= METRICS
    for row in summary["metrics"].values():
        assert set(row) >= {"teacher", "base", "student", "difference", "interval"}
    assert summary["num_prompts"] == 4
    assert summary["noise_seeds"] == [1, 2]
    assert set(summary["stages"]) == STAGES
    targets = {target["name"]: target["verdict"] for target in summary["targets"]}
    assert targets.keys() <= summary["metrics"].keys() and len(targets) == 5
    assert set(targets.values()) <= {"pass", "fail", "not estimable"}
    assert all(spent["wall_s"] > 0 and spent["cpu_s"] > 0 for spent in summary["stages"].values())


def test_records_name_what_the_plan_named(finished: Finished) -> None:
    state = state_before(load_params(Params, PARAMS), 2)
    store = Store(finished.store)
    for index, made in enumerate(state.rounds):
        file = finished.folder / "rounds" / f"{index:03d}.json"
        read = {role: ArtifactRef(**ref) for role, ref in json.loads(file.read_bytes()).items()}
        assert read == dict(made)
        assert all(store.have(ref) for ref in read.values())
    assert (finished.folder / "report.html").read_text().lstrip().startswith("<!")
    assert load_params(Params, finished.folder / "params.yaml") == load_params(Params, PARAMS)


def test_run_again_it_computes_nothing(forge: Forge, finished: Finished) -> None:
    def stamps() -> dict[str, int]:
        files = [p for p in finished.store.rglob("*") if p.is_file()]
        return {str(p): p.stat().st_mtime_ns for p in files}

    before = stamps()
    log = finished.log.with_name("again")
    assert forge.afd("campaign", "--name", "campaign", store=finished.store, log=log) == 0
    assert stamps() == before
    assert "trajectory_error_px" in log.read_text()


def test_the_run_folder_may_be_lost(forge: Forge, finished: Finished, tmp_path: Path) -> None:
    """Records come back from the plan and the store."""
    log = tmp_path / "log"
    assert forge.afd("campaign", "--name", "second", store=finished.store, log=log) == 0
    told = log.read_text()
    assert "  rollout " not in told  # nothing was computed
    assert "MLflow" not in told.replace("MLflow   ", "")  # and nothing was refused or spooled
    kept = (finished.folder / "rounds" / "001.json").read_bytes()
    assert (forge.runs / "second" / "rounds" / "001.json").read_bytes() == kept


@pytest.fixture
def served(tmp_path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Both deployments, served against a Prefect server of their own."""
    own = OwnPrefect(CampaignPaths(tmp_path / "runs", tmp_path / "store"))
    before = {name: os.environ.get(name) for name in ("PREFECT_HOME", "PREFECT_API_URL")}
    own.start()
    own.configure()
    own.wait()
    log = tmp_path / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.deploy"], stdout=file, stderr=file, cwd=PROJECT
        )
    deadline = time.monotonic() + PATIENCE_S
    while "afd/round" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield process
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    own.let_go()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.mark.campaign
def test_the_deployment_runs_a_round(
    served: "subprocess.Popen[bytes]", finished: Finished, tmp_path: Path
) -> None:
    """`prefect deployment run afd/round`, on the store of a campaign that has it all."""
    del served
    paths = {"runs": str(tmp_path / "runs"), "store": str(finished.store), "campaign": "served"}
    chosen = paths | {"params": str(PARAMS), "cluster": str(CLUSTER)}
    command = [sys.executable, "-m", "prefect", "deployment", "run", "afd/round", "--watch"]
    for name, value in chosen.items():
        command += ["-p", f"{name}={value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Completed" in done.stdout
    kept = (finished.folder / "rounds" / "000.json").read_bytes()
    assert (tmp_path / "runs" / "served" / "rounds" / "000.json").read_bytes() == kept
