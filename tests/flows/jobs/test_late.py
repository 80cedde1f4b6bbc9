"""A shared disk shows late what a node has written: NFS hides a file for up to a minute."""

import os
import threading
from pathlib import Path

import pytest

from afd.config import Cluster, Params
from afd.params import load_params
from afd.runtime.outcome import Outcome
from afd.runtime.request import StageRequest
from afd.stages.execute import execute
from afd.stages.requests import prompts
from afd.store import Store
from flows.commands.doctor_cluster import slurm_findings
from flows.dispatch import compute
from flows.jobs.site import Site
from flows.jobs.slurm import APPEAR_S, SlurmJobs
from tests.flows.conftest import PARAMS, PROJECT
from tests.flows.jobs.conftest import Programs

LATER_S = APPEAR_S + 1.5
# Runs what it is given, later than anybody is told that the job has ended.
SBATCH = f"""
for script; do :; done
case "$*" in *--test-only*) exit 0;; esac
PATH={{bin}}:/usr/bin:/bin; (sleep {LATER_S}; sh "$script") >/dev/null 2>&1 &
echo 7
"""


@pytest.fixture
def request_() -> StageRequest:
    return prompts(load_params(Params, PARAMS))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    file = PROJECT / "params" / "cluster" / "slurm.yaml"
    chosen = load_params(Cluster, file, (), ["slurm.poll_s=0.1"])
    return Site(Store(tmp_path / "store"), tmp_path / "runs" / "demo", chosen)


@pytest.fixture
def shown_late(site: Site, request_: StageRequest) -> threading.Timer:
    """The artifact, seconds after the test has begun."""
    timer = threading.Timer(LATER_S + 1.0, execute, (request_, site.store))
    timer.daemon = True
    return timer


def test_a_job_that_ended_well_is_believed_until_its_artifact_shows(
    site: Site,
    request_: StageRequest,
    shown_late: threading.Timer,
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = "afd-0"
    monkeypatch.setattr("flows.jobs.slurm.new_token", lambda: token)
    programs(
        sbatch="echo 7",
        squeue=f"echo '{token}|7|COMPLETED|None|0|0|n1|'",
        scontrol=f"echo JobId=7 JobState=COMPLETED Comment={token}",
        srun="exit 0",
        scancel="exit 0",
    )
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/bin:/bin")
    shown_late.start()
    outcome = SlurmJobs(site).attempt(request_)
    assert outcome.status == "done", outcome.message


def test_so_is_a_worker_that_says_it_has_made_one(
    site: Site, request_: StageRequest, shown_late: threading.Timer
) -> None:
    class Says:
        num_side_by_side = 1

        def start(self) -> None: ...

        def attempt(self, request: StageRequest) -> Outcome:
            del request
            return Outcome(status="done", message="", exit_code=0, wall_s=0.0, log=None)

        def end_round(self) -> None: ...

        def close(self) -> None: ...

    shown_late.start()
    assert compute(Says(), site, request_).status == "done"


def test_so_is_the_probe_of_the_doctor(site: Site, tmp_path: Path, programs: Programs) -> None:
    programs(
        sbatch=SBATCH.format(bin=tmp_path / "bin"),
        srun='while [ "$1" != sh ]; do shift; done; exec "$@"',
        **dict.fromkeys(("squeue", "scancel", "scontrol", "sacct"), "exit 0"),
    )
    found = {one.what: one for one in slurm_findings(site.cluster, tmp_path, tmp_path)}
    assert found["runs shared"].verdict == "ok", found["runs shared"].text
