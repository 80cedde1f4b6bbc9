"""However a campaign is allocated its nodes, it makes the same: a job a stage, pilots, ranks."""

import shutil
import signal
from collections.abc import Callable

import pytest
from safetensors.torch import load_file

from afd.runtime.request import StageRequest
from flows.dispatch import build, compute
from flows.jobs.records import WORKER, JobRecords
from flows.jobs.site import Site
from tests.slurm.conftest import RealSlurm, until
from tests.slurm.start import Start, doors, files
from tests.slurm.test_outcomes import Asked

# Measured: 0.006 after 42 steps at a learning rate of 0.001. Sums in another order differ in the
# last bits, and where a gradient is little more than rounding AdamW's step has that bit's sign.
RANKS_TOLERANCE = 0.02


A_ROUND = pytest.mark.nightly(reason="tests/slurm/test_campaigns.py allocates by round")


@pytest.mark.parametrize("allocation", ["stage", pytest.param("round", marks=A_ROUND), "campaign"])
def test_the_same_artifacts_as_in_one_process(
    site: Callable[..., Site], start: Start, allocation: str
) -> None:
    here = site(
        f"by-{allocation}",
        *(f"allocation={allocation}", "resources.rollout.num_parts=2"),
        *("resources.every_stage.mem_gb=2", "resources.worker.mem_gb=4"),
    )
    shutil.copytree(start.store.root, here.store.root)
    dispatch = build(here)
    for request in (start.rollout, start.fit, start.update):
        outcome = compute(dispatch, here, request)
        assert outcome.status == "done", outcome.message
        assert files(here.store, request) == files(start.whole, request)
    dispatch.end_round()
    submitted = {entry.name for entry in JobRecords(here.folder / "ledger").entries()}
    assert (submitted == {WORKER}) == (allocation != "stage")
    dispatch.close()


def test_two_nodes_fit_together_and_a_rank_that_dies_ends_the_other(
    site: Callable[..., Site], slurm: RealSlurm, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFD_CHECKPOINT_PERIOD_S", "0")
    here = site("ranks", "resources.fit.nodes=2", "resources.every_stage.mem_gb=2")
    shutil.copytree(start.whole.root, here.store.root)
    shutil.rmtree(here.store.path(start.fit.output))
    asked = Asked(here, start.fit)
    until(lambda: list(here.store.work_path(start.fit.output).rglob("step-*.safetensors")))
    job_id = asked.ledger.read(asked.name).job_id  # type: ignore[union-attr]
    assert slurm.ask("squeue", "-h", "-j", job_id, "-o", "%D") == "2"
    both = doors(here.store)
    assert len(both) == 2
    both[1].send_signal(signal.SIGKILL)
    until(lambda: not any(one.is_running() for one in both))
    assert asked.end().status == "done"
    entry = asked.ledger.read(asked.name)
    assert entry is not None
    assert entry.jobs[0].seen[entry.jobs[0].job_id].state == "FAILED"
    assert len(entry.jobs) == 2
    manifest = here.store.load(start.fit.output).manifest
    assert manifest.made_by.num_ranks == 2
    whole, ranks = (
        load_file(store.load(start.fit.output).file("discriminator.safetensors"))
        for store in (start.whole, here.store)
    )
    assert whole.keys() == ranks.keys()
    apart = max(float((whole[k].double() - ranks[k].double()).abs().max()) for k in whole)
    assert 0 < apart < RANKS_TOLERANCE, apart


def test_what_needs_the_network_runs_on_the_head(
    site: Callable[..., Site], slurm: RealSlurm, start: Start
) -> None:
    """Its request is refused, since no vendor is named; what counts is where it was tried."""
    here = site()
    params = {"teacher": {"kind": "remote"}, "seed": 1}
    harvest = StageRequest(
        stage="harvest",
        params=params,
        inputs={"prompt_set": start.rollout.inputs["prompt_set"]},
    )
    before = set(slurm.jobs())
    outcome = compute(build(here), here, harvest)
    assert outcome.status != "done"
    (entry,) = JobRecords(here.folder / "ledger").entries()
    assert entry.kind == "local"
    assert set(slurm.jobs()) <= before


def test_two_campaigns_side_by_side_do_not_disturb_each_other(
    site: Callable[..., Site], start: Start
) -> None:
    """They share the store: what both need is made once, and each ends with all of it."""
    chosen = ("resources.every_stage.mem_gb=2", "resources.rollout.num_parts=1")
    paths = [site(name, *chosen) for name in ("one", "other")]
    shutil.copytree(start.store.root, paths[0].store.root)
    both = [Asked(here, start.rollout) for here in paths]
    assert [asked.end().status for asked in both] == ["done", "done"]
    assert files(paths[0].store, start.rollout) == files(start.whole, start.rollout)
