"""What a job is given: no variable of the head but the named ones, and no sbatch flag but ours."""

from collections.abc import Callable
from pathlib import Path

import pytest

from afd.runtime.outcome import RefusedError
from afd.store import Store
from flows.dispatch import build
from flows.jobs import slurm as slurm_jobs
from flows.jobs.site import Site
from tests.slurm import bodies
from tests.slurm.conftest import RealSlurm, cluster, until
from tests.slurm.test_outcomes import Asked

CANARY = "canary-3f9a1c77"


def test_a_job_sees_named_variables_only(
    site: Callable[..., Site], slurm: RealSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", CANARY)
    monkeypatch.setenv("SLURM_SECRET", CANARY)  # SLURM_* is handed on by sbatch unasked
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")  # a head that runs inside a job
    monkeypatch.setenv("HF_HOME", "/shared/models")
    monkeypatch.setattr(slurm_jobs, "run_stage", bodies.tells_environment)
    here = site("demo", "slurm.scratch=/tmp/afd-$USER", "slurm.setup=[export FROM_SETUP=yes]")

    def found(word: str) -> set[str]:
        """Kinds of file with this word in them: the campaign's own, SLURM's state and its logs."""
        files = [*Path(here.folder).rglob("*"), *(slurm.root / "state").rglob("*")]
        files += slurm.root.rglob("*.log")
        inside = [f for f in files if f.is_file() and word.encode() in f.read_bytes()]
        return {file.suffix or file.name for file in inside}

    slurm.ask("scontrol", "update", "partition=main", "state=down")  # its environment is kept now
    asked = Asked(here)
    until(lambda: asked.seen()[0] == "PENDING")
    waiting = found(CANARY), found("/shared/models"), found(asked.name)
    slurm.ask("scontrol", "update", "partition=main", "state=up")
    asked.end()
    assert waiting[0] == set()
    assert "environment" in waiting[1]  # what is handed on is found where it is kept
    assert {".pkl", ".sh", "script"} <= waiting[2]
    told = asked.ledger.request_file(asked.name).with_suffix(".environment").read_text()
    seen = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    assert seen["HF_HOME"] == "/shared/models"
    assert seen["FROM_SETUP"] == "yes"
    assert seen["TMPDIR"].startswith("/tmp/afd-")
    assert seen["OMP_NUM_THREADS"] == "1"
    assert "SOME_API_KEY" not in seen
    assert found(CANARY) == set()
    assert ".environment" in found("/shared/models")


@pytest.mark.parametrize("folder", ["a b", "50%j", "it's", "x;y", "line\nbreak"])
def test_a_path_that_a_batch_script_could_misread_is_refused(tmp_path: Path, folder: str) -> None:
    odd = Site(Store(tmp_path / "store"), tmp_path / folder / "demo", cluster())
    with pytest.raises(RefusedError, match="nothing was started"):
        build(odd)
    assert list(tmp_path.iterdir()) == []
