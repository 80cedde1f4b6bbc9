"""Every way a job can end without its artifact is an outcome of its own, told within seconds."""

import threading
from collections.abc import Callable, Sequence

import pytest

from afd.config import Params
from afd.params import load_params
from afd.runtime.mailbox import request_id
from afd.runtime.outcome import Outcome
from afd.runtime.request import StageRequest
from afd.stages import requests
from flows.dispatch import build, compute
from flows.jobs import scheduler
from flows.jobs import slurm as slurm_jobs
from flows.jobs.inside import StageJob
from flows.jobs.records import Job, JobRecords, Seen, lacks_nodes
from flows.jobs.scheduler import Slurm
from flows.jobs.site import Site
from flows.jobs.slurm import SlurmJobs
from tests.slurm import bodies
from tests.slurm.conftest import PROJECT, RealSlurm, prompts_request, until

Sites = Callable[..., Site]


class Asked:
    """A stage asked for in a thread of its own."""

    def __init__(self, site: Site, request: StageRequest | None = None) -> None:
        self.site, self.request = site, request or prompts_request()
        self.name = request_id(self.request)
        self.ledger = JobRecords(site.folder / "ledger")
        self.jobs = SlurmJobs(site)
        self.outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._ask, daemon=True)  # not to outlive pytest
        self._thread.start()

    def _ask(self) -> None:
        self.outcome = self.jobs.attempt(self.request)

    def running(self) -> str:
        """The job's number, once it computes."""
        waits = self.ledger.request_file(self.name).with_suffix(".waits")
        until(waits.exists)
        entry = self.ledger.read(self.name)
        assert entry is not None
        return entry.job_id

    def seen(self) -> tuple[str, str]:
        """State and reason, as the ledger tells `afd status`."""
        entry = self.ledger.read(self.name)
        found = list(entry.jobs[-1].seen.values()) if entry is not None else []
        return (found[0].state, found[0].reason) if found else ("", "")

    def end(self, patience_s: float = 240.0) -> Outcome:
        self._thread.join(patience_s)
        assert self.outcome is not None
        return self.outcome


def body(monkeypatch: pytest.MonkeyPatch, what: Callable[[StageJob], None]) -> None:
    monkeypatch.setattr(slurm_jobs, "run_stage", what)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (bodies.dies, "killed by signal 9; out of memory is the usual reason"),
        (bodies.leaves_nothing, "ended well but left no result (SLURM: COMPLETED, on n"),
        (bodies.eats, "needed more than its 0.5 GB of memory"),
    ],
)
def test_a_job_that_leaves_no_artifact(
    site: Sites, monkeypatch: pytest.MonkeyPatch, what: Callable[[StageJob], None], told: str
) -> None:
    body(monkeypatch, what)
    monkeypatch.setattr(slurm_jobs, "LATE_S", 3.0)
    asked = Asked(site("demo", "slurm.max_idle_attempts=1"))
    outcome = asked.end()
    assert outcome.status == "failed"
    assert told in outcome.message
    assert "kept" in outcome.message
    assert "run the same command again" in outcome.message
    if what is bodies.dies:
        assert "the last words" in outcome.message
    if what is bodies.eats:
        assert "raise resources.prompts.mem_gb" in outcome.message
    entry = asked.ledger.read(asked.name)
    assert entry is not None
    assert entry.ended == "failed"


def test_attempts_without_progress_are_bounded_and_told(
    site: Sites, slurm: RealSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    body(monkeypatch, bodies.dies)
    asked = Asked(site("bounded", "slurm.max_idle_attempts=2"))
    assert "given up after 2 attempt(s) in a row without a newer checkpoint" in asked.end().message
    assert len(slurm.jobs(f"afd-{asked.name}")) >= 2


def test_cancelled_by_an_admin(
    site: Sites, slurm: RealSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    body(monkeypatch, bodies.waits)
    monkeypatch.setattr(slurm_jobs, "LATE_S", 3600.0)  # nothing is waited for
    asked = Asked(site())
    job_id = asked.running()
    slurm.ask("scancel", job_id)
    outcome = asked.end()
    assert outcome.status == "failed"
    assert f"job {job_id} was cancelled by somebody else (SLURM: CANCELLED" in outcome.message
    assert "waiting" in outcome.message  # the log's last lines


def test_a_cancelled_task_of_an_array_is_told_with_its_part(
    site: Sites, slurm: RealSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    body(monkeypatch, bodies.waits)
    params = load_params(Params, PROJECT / "params" / "tiny.yaml", (), ["rollout.num_prompts=8"])
    given = requests.prompts(params).output
    here = site("cancelled-task", "resources.rollout.num_parts=2")
    asked = Asked(here, requests.rollout(params, given, given, 0))
    job_id = asked.running()
    until(lambda: asked.seen()[0] == "RUNNING")
    slurm.ask("scancel", f"{job_id}_1")
    outcome = asked.end()
    assert outcome.status == "failed"
    assert f"job {job_id}_1 was cancelled by somebody else (SLURM: CANCELLED" in outcome.message


@pytest.mark.parametrize(
    ("override", "words", "field"),
    [
        ("slurm.partition=nowhere", "invalid partition specified: nowhere", "slurm.partition"),
        ("slurm.constraint=quantum", "Invalid feature specification", "slurm.constraint"),
        (
            "resources.prompts.gpus_per_task=1",
            "Invalid generic resource (gres) specification",
            "resources.prompts.gpus_per_task or slurm.gpu_type",
        ),
    ],
)
def test_what_sbatch_refuses_is_told_in_its_words_with_the_field(
    site: Sites, override: str, words: str, field: str
) -> None:
    here = site("demo", override)
    outcome = compute(build(here), here, prompts_request())
    assert outcome.status == "refused"
    assert words in outcome.message
    assert f"correct {field}" in outcome.message
    entry = JobRecords(here.folder / "ledger").read(request_id(prompts_request()))
    assert entry is not None
    assert entry.attempts == 0  # nothing was submitted


def test_a_job_that_waits_is_no_failure_and_its_reason_is_kept_for_status(
    site: Sites, slurm: RealSlurm
) -> None:
    slurm.ask("scontrol", "update", "partition=main", "state=down")
    try:
        asked = Asked(site())
        assert until(lambda: asked.seen()[0] == "PENDING" and asked.seen())[1] == "PartitionDown"
        assert asked.outcome is None
    finally:
        slurm.ask("scontrol", "update", "partition=main", "state=up")
    assert asked.end().status == "done"


def test_why_it_waits_is_known_long_before_the_next_question_is_due(
    site: Sites, slurm: RealSlurm
) -> None:
    """With every node drained; a head that asks every 10 minutes knows it long before."""
    with slurm.drained():
        asked = Asked(site("drained", "slurm.poll_s=600"))
        until(lambda: asked.ledger.read(asked.name))
        told = until(lambda: (entry := asked.ledger.read(asked.name)) and entry.waits)
        assert "PENDING (" in told
        assert lacks_nodes(told)
        asked.jobs.close()


def test_a_job_that_slurm_has_forgotten_is_judged_by_the_exit_code_it_left(
    site: Sites,
    slurm: RealSlurm,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Accounting is off: neither squeue nor sacct know it any more."""
    forgotten = threading.Event()

    class Later(Slurm):
        """Asked for the first time after it is forgotten; no earlier test has had its warning."""

        def states(self, jobs: Sequence[Job], patience_s: float = 60.0) -> dict[str, Seen]:
            assert forgotten.wait(240)
            return super().states(jobs, patience_s)

    monkeypatch.setattr(scheduler, "SLURM", Later())
    here = site("forgotten")
    asked = Asked(here, prompts_request(num_held_out=10**6))
    until(lambda: list(here.submitit.glob("*_0.exit")))
    slurm.do("forget")
    assert not slurm.jobs(f"afd-{asked.name}")
    forgotten.set()
    outcome = asked.end()
    assert outcome.status == "refused"
    assert "correct the input" in outcome.message
    assert "sacct does not answer" in capfd.readouterr().err
