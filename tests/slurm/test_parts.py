"""A stage as an array of parts: chunked, throttled, a lost part alone computed again."""

import shutil
import signal
import sys
from pathlib import Path

from afd.runtime.mailbox import request_id
from afd.runtime.request import StageRequest
from flows.jobs.records import Job, JobRecords, StageRecord
from flows.jobs.site import Site
from tests.slurm.conftest import MAX_ARRAY, PROJECT, RealSlurm, until
from tests.slurm.start import Start, doors, files
from tests.slurm.test_outcomes import Asked, Sites
from tests.slurm.test_reattach import goes_on, queue_stands_still

__all__ = ("queue_stands_still",)  # a fixture
NUM_PARTS = MAX_ARRAY + 1


def test_only_what_is_missing_is_submitted_in_arrays_that_the_cluster_takes(
    site: Sites, slurm: RealSlurm, start: Start
) -> None:
    chosen = (f"resources.rollout.num_parts={NUM_PARTS}", "slurm.max_jobs=2")
    here = site("parts", *chosen, "resources.every_stage.mem_gb=2")
    shutil.copytree(start.store.root, here.store.root, dirs_exist_ok=True)
    asked = Asked(here, start.rollout)
    victim = until(lambda: [one for one in doors(here.store) if "--part" in one.cmdline()])[0]
    part = victim.cmdline()[victim.cmdline().index("--part") + 1]
    victim.send_signal(signal.SIGKILL)
    assert asked.end().status == "done"
    assert files(here.store, start.rollout) == files(start.whole, start.rollout)
    entry = asked.ledger.read(asked.name)
    assert entry is not None
    arrays = [job.parts for job in entry.jobs]
    assert arrays == [tuple(range(MAX_ARRAY)), (MAX_ARRAY,), (int(part.split("/")[0]),)]
    script = Path(here.submitit / f"{entry.jobs[0].token}_submission.sh").read_text()
    assert f"--array=0-{MAX_ARRAY - 1}%2" in script
    known = {task.split("_")[0] for task in slurm.jobs(f"afd-{asked.name}")}
    assert known >= {job.job_id for job in entry.jobs}


def test_another_number_of_parts_ends_the_array_of_the_head_before(
    site: Sites, slurm: RealSlurm, start: Start, queue_stands_still: None
) -> None:
    del queue_stands_still
    here = site("other-parts", "resources.rollout.num_parts=4")
    shutil.copytree(start.store.root, here.store.root)
    ours = ("--parsable", "--comment=afd-old", "--output=/dev/null")
    old = slurm.ask("sbatch", *ours, "--array=0-1", "--wrap=sleep 300")
    left = Job(job_id=old, kind="slurm", token="afd-old", parts=(0, 1), num_parts=2)
    entry(here, start.rollout, left)
    asked = Asked(here, start.rollout)
    until(lambda: (known := asked.ledger.read(asked.name)) and known.job_id not in ("", old))
    states = slurm.ask("squeue", "-h", "-r", "--states=all", "-j", old, "-o", "%T").split()
    assert set(states) == {"CANCELLED"}
    assert asked.ledger.cancelled_file("afd-old").exists()
    asked.jobs.close()


def test_a_whole_job_of_the_head_before_is_waited_for_though_parts_are_wanted_now(
    site: Sites, slurm: RealSlurm, start: Start, queue_stands_still: None
) -> None:
    del queue_stands_still
    here = site("whole", "resources.rollout.num_parts=4")
    shutil.copytree(start.store.root, here.store.root)
    name = request_id(start.rollout)
    file = JobRecords(here.folder / "ledger").request_file(name)
    file.write_text(start.rollout.model_dump_json())
    door = f"{sys.executable} -m afd.stages rollout --request {file} --store {here.store.root}"
    old = slurm.ask(
        *("sbatch", "--parsable", "--comment=afd-old", "--mem=2000", f"--chdir={PROJECT}"),
        *("--output=/dev/null", f"--wrap={door} --threads 1"),
    )
    entry(here, start.rollout, Job(job_id=old, kind="slurm", token="afd-old"))
    asked = Asked(here, start.rollout)
    until(lambda: asked.seen()[0] == "PENDING")
    goes_on(slurm)
    assert asked.end().status == "done"
    known = asked.ledger.read(asked.name)
    assert known is not None
    assert [job.job_id for job in known.jobs] == [old]
    assert files(here.store, start.rollout) == files(start.whole, start.rollout)


def entry(here: Site, request: StageRequest, job: Job) -> None:
    """What a head that was killed has left in the ledger."""
    known = StageRecord(
        name=request_id(request),
        stage=request.stage,
        fingerprint=request.output.fingerprint,
        folder=str(here.submitit),
        jobs=(job,),
        attempts=1,
        submitted_at="",
    )
    JobRecords(here.folder / "ledger").write(known)
