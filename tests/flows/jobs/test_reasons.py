"""Reasons for which a job waits: the field that helps, or nothing where waiting is all."""

import pytest

from flows.jobs.reasons import cure
from flows.jobs.records import Job, Seen, StageRecord


def record(*seen: Seen) -> StageRecord:
    tasks = {f"7_{k}": one for k, one in enumerate(seen)}
    job = Job(job_id="7", kind="slurm", parts=tuple(range(len(seen))), seen=tasks)
    return StageRecord(
        name="fit-1",
        stage="fit",
        fingerprint="",
        folder="",
        jobs=(job,),
        attempts=1,
        submitted_at="",
    )


@pytest.mark.parametrize(
    ("reason", "field"),
    [
        ("PartitionTimeLimit", "resources.fit.minutes"),
        ("QOSMaxWallDurationPerJobLimit", "resources.fit.minutes"),
        ("QOSMaxGRESPerUser", "resources.fit.gpus_per_task"),
        ("QOSMaxCpuPerUserLimit", "resources.fit.cpus_per_task"),
        ("QOSMaxMemoryPerJob", "resources.fit.mem_gb"),
        ("QOSMaxNodePerJobLimit", "resources.fit.nodes"),
        ("QOSMaxJobsPerUserLimit", "goes on when others end"),
        ("AssocGrpGRES", "share is used up"),
        ("AssocMaxWallDurationPerJobLimit", "resources.fit.minutes"),
        ("DependencyNeverSatisfied", "never starts"),
        ("BadConstraints", "slurm.constraint"),
    ],
)
def test_a_limit_is_told_with_its_field(reason: str, field: str) -> None:
    waits = record(Seen(state="PENDING", reason=reason)).waits
    assert waits.startswith(f"job 7 PENDING ({reason}): ")
    assert field in waits


def test_a_full_queue_needs_nothing_and_a_suspended_job_is_told() -> None:
    assert cure("Resources", "fit") == cure("Priority", "fit") == ""
    assert record(Seen(state="SUSPENDED")).waits == "job 7 SUSPENDED"
    assert record(Seen(state="RUNNING"), Seen(state="PENDING", reason="Priority")).waits == ""
