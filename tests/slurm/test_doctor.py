"""`afd doctor --cluster` on a real cluster: a probe job, and what it says of what is wrong."""

import os
import shutil
from pathlib import Path

import pytest

from afd.config import Cluster
from afd.params import load_params
from flows.commands.doctor_cluster import Finding, slurm_findings
from tests.flows.conftest import PROJECT
from tests.slurm.conftest import RealSlurm

SLURM = PROJECT / "params" / "cluster" / "slurm.yaml"


def findings(folder: Path, *overrides: str) -> dict[str, Finding]:
    cluster = load_params(Cluster, SLURM, (), overrides)
    found = slurm_findings(cluster, folder / "runs", folder / "store")
    return {one.what: one for one in found}


def test_a_probe_job_writes_on_a_node_what_the_head_reads(slurm: RealSlurm) -> None:
    found = findings(slurm.root / "shared")
    for what in ("slurm", "sbatch", "runs shared", "store shared", "clock"):
        assert found[what].verdict == "ok", found[what].text
    assert found["preemption"].verdict == "ok"  # it stands after an empty value of `scontrol`
    assert "KillWait of 10 s or more" in found["signals"].text  # 3 s are set here
    assert "slurmdbd" in found["accounting"].text
    assert "missing" not in {one.verdict for one in found.values()}
    assert not [file for file in (slurm.root / "shared").rglob("*") if file.is_file()]


def test_nodes_that_are_drained_are_thought_of(slurm: RealSlurm) -> None:
    with slurm.drained():
        told = findings(slurm.root / "shared")["sbatch"].text
    assert "node configuration is not available" in told and "sinfo -R" in told


def test_a_partition_that_is_not_there_is_said_in_sbatchs_words(slurm: RealSlurm) -> None:
    found = findings(slurm.root / "shared", "slurm.partition=nowhere")
    assert found["sbatch"].verdict == "missing"
    assert "nvalid partition" in found["sbatch"].text
    assert "slurm.partition" in found["sbatch"].text
    assert "runs shared" not in found


def test_sbatch_is_asked_for_exactly_what_each_stage_asks(
    slurm: RealSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster that forbids --mem refuses the fit of a round after its harvest, and here."""
    program = tmp_path / "sbatch"
    check = 'grep -q -e "--mem" "${@: -1}" && { echo "ERROR: --mem is not allowed" >&2; exit 1; }'
    program.write_text(f'#!/bin/bash\n{check}\nexec {shutil.which("sbatch")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    text = findings(slurm.root / "shared")["sbatch"].text
    assert "--mem is not allowed: change resources." in text
    assert "mem_gb (null: no --mem)" in text
    none = ("resources.every_stage.mem_gb=null", "resources.worker.mem_gb=null")
    found = findings(slurm.root / "shared", *none)
    assert found["sbatch"].verdict == "ok", found["sbatch"].text
    assert found["runs shared"].verdict == "ok", found["runs shared"].text
    far = (*none, "resources.fit.cpus_per_task=99")
    assert findings(slurm.root / "shared", *far)["sbatch"].text.startswith("fit: ")


def test_flags_and_setup_of_a_site_reach_the_probe(slurm: RealSlurm) -> None:
    site = ("slurm.sbatch_flags=[--exclusive]", "slurm.srun_flags=[--mpi=none]")
    found = findings(slurm.root / "shared", *site)
    assert found["sbatch"].verdict == "ok", found["sbatch"].text
    assert found["runs shared"].verdict == "ok", found["runs shared"].text
    broken = findings(slurm.root / "shared", "slurm.setup=[/bin/false]")["runs shared"]
    assert broken.verdict == "missing"
    assert "`/bin/false` failed" in broken.text
    assert "slurm.setup" in broken.text
