"""SLURM's controller is away: stand-ins for its programs say what the real ones do then."""

from pathlib import Path

import pytest

from afd.config import Cluster, Params
from afd.params import load_params
from afd.runtime.mailbox import request_id
from afd.stages.requests import prompts
from afd.store import Store
from flows.jobs import submit
from flows.jobs.records import JobRecords
from flows.jobs.site import Site
from flows.jobs.slurm import SlurmJobs
from tests.flows.conftest import PARAMS, PROJECT

WORDS = "Unable to contact slurm controller (connect failure)"
SAY = {
    "sbatch": f"sbatch: error: Batch job submission failed: {WORDS}",
    "squeue": f"slurm_load_jobs error: {WORDS}",
    "scancel": f"scancel: error: Kill job error on job id 1: {WORDS}",
}


def test_what_no_controller_took_is_no_attempt_and_is_forbidden_in_case_it_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in SAY.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{said}' >&2; echo {name} >> {tmp_path}/asked; exit 1")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(submit, "TAKES_S", 2.0)
    monkeypatch.setattr(submit, "FIRST_PAUSE_S", 1.0)
    chosen = load_params(
        Cluster, PROJECT / "params" / "cluster" / "slurm.yaml", (), ["slurm.poll_s=0.1"]
    )
    site = Site(Store(tmp_path / "store"), tmp_path / "runs" / "demo", chosen)
    request = prompts(load_params(Params, PARAMS))
    outcome = SlurmJobs(site).attempt(request)
    assert outcome.status == "failed"
    assert f"SLURM takes no jobs now: slurm_load_jobs error: {WORDS}" in outcome.message
    ledger = JobRecords(site.folder / "ledger")
    entry = ledger.read(request_id(request))
    assert entry is not None
    assert (entry.attempts, entry.ended) == (0, "failed")
    (job,) = entry.jobs
    assert ledger.cancelled_file(job.token).exists()  # if it was taken after all, it does nothing
    # Nobody asks again for what may have been taken before it is known that it was not; at the end
    # it is looked for once more, to be cancelled.
    asked = (tmp_path / "asked").read_text().split()
    assert asked.count("sbatch") == 1
    assert set(asked[1:]) == {"squeue"}
    assert len(asked) > 3
