"""With slurmdbd: why a job ended is known when the controller has forgotten it.

Setting up MariaDB takes half a minute, so this runs only where AFD_TEST_ACCOUNTING=1 asks for it
(AFD_SLURM_ACCOUNTING=1 tests/slurm/cluster.sh install, first).
"""

import os
from collections.abc import Callable

import pytest

from flows.jobs.scheduler import Slurm
from flows.jobs.site import Site
from tests.slurm import bodies
from tests.slurm.conftest import RealSlurm, started
from tests.slurm.test_outcomes import Asked, body


def test_what_the_controller_has_forgotten_the_accounting_tells(
    slurm: RealSlurm,
    site: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    del slurm
    if os.environ.get("AFD_TEST_ACCOUNTING") != "1":
        pytest.skip("NOT TESTED: a cluster with slurmdbd (AFD_TEST_ACCOUNTING=1 runs it)")
    monkeypatch.setattr("flows.jobs.scheduler.SLURM", Slurm())  # another cluster than the session's
    body(monkeypatch, bodies.waits)
    before = os.environ["SLURM_CONF"]
    with started(accounting=True) as accounted:
        assert os.environ["SLURM_CONF"] != before
        asked = Asked(site("accounted", "slurm.poll_s=12"))
        job_id = asked.running()
        accounted.ask("scancel", job_id)
        accounted.do("forget")
        assert job_id not in accounted.jobs()
        outcome = asked.end()
    assert os.environ["SLURM_CONF"] == before
    assert outcome.status == "failed"
    assert f"job {job_id} was cancelled by somebody else (SLURM: CANCELLED" in outcome.message
    assert "sacct does not answer" not in capfd.readouterr().err
