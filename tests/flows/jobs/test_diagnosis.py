"""What the end of a SLURM job means, where a real cluster of four virtual nodes cannot show it."""

import json
from pathlib import Path

import pytest

from afd.config import Cluster
from afd.params import load_params
from afd.runtime.outcome import Status
from flows.jobs.diagnosis import EndedTask, diagnose, reports_done
from flows.jobs.records import Seen
from tests.flows.conftest import PROJECT

CLUSTER = load_params(Cluster, PROJECT / "params" / "cluster" / "slurm.yaml")


def ended(folder: Path, seen: Seen | None, codes: dict[int, int], restart: int = 0) -> EndedTask:
    """A job of as many ranks as the codes that they left."""
    assert CLUSTER.resources is not None
    given = CLUSTER.resources.of("fit").model_copy(update={"nodes": max(codes, default=0) + 1})
    for rank, code in codes.items():
        note = json.dumps({"code": code, "restart": restart})
        (folder / f"7_{rank}.exit").write_text(note)
        (folder / f"7_{rank}_log.out").write_text(f"rank {rank} was here")
    return EndedTask("7", "fit", seen, lambda rank: str(folder / f"7_{rank}_log.out"), given)


@pytest.mark.parametrize(
    ("state", "status", "again", "told"),
    [
        ("OUT_OF_MEMORY", "failed", False, "raise resources.fit.mem_gb"),
        ("TIMEOUT", "lost", True, "raise resources.fit.minutes"),
        ("CANCELLED", "failed", False, "cancelled by somebody else"),
        ("DEADLINE", "failed", False, "before its deadline"),
        ("PREEMPTED", "lost", True, "preempted and not requeued"),
        ("NODE_FAIL", "lost", True, "lost its node"),
        ("BOOT_FAIL", "lost", True, "did not boot"),
    ],
)
def test_the_scheduler_says_why(
    tmp_path: Path, state: str, status: Status, again: bool, told: str
) -> None:
    seen = Seen(state=state, reason="SomeReason", exit_code=-9, node="m7")
    verdict = diagnose(ended(tmp_path, seen, {}), 1.0)
    assert (verdict.outcome.status, verdict.again) == (status, again)
    assert told in verdict.outcome.message
    assert f"SLURM: {state}, reason SomeReason, on m7, signal 9" in verdict.outcome.message


@pytest.mark.parametrize(
    ("codes", "status", "cause"),
    [
        ({0: -15, 1: 1}, "failed", 1),  # rank 1 crashed; rank 0 was ended for it
        ({0: 5, 1: -9}, "lost", 1),  # rank 1 was killed; rank 0 found it gone
        ({0: 6, 1: 5}, "lost", 0),  # told to stop
        ({0: 3, 1: 5, 2: -15}, "store", 0),
    ],
)
def test_of_several_ranks_the_one_that_ended_the_others_is_told(
    tmp_path: Path, codes: dict[int, int], status: Status, cause: int
) -> None:
    seen = Seen(state="FAILED", exit_code=143)
    outcome = diagnose(ended(tmp_path, seen, codes), 1.0).outcome
    assert outcome.status == status
    assert f"rank {cause} was here" in outcome.message


def test_what_was_left_before_a_requeue_is_no_news(tmp_path: Path) -> None:
    seen = Seen(state="FAILED", exit_code=2, num_restarts=1)
    verdict = diagnose(ended(tmp_path, seen, {0: 2}, restart=0), 1.0)
    assert verdict.outcome.status == "lost"  # 2 is srun's own: the stage has left nothing
    assert "its stage has left no word" in verdict.outcome.message
    assert diagnose(ended(tmp_path, seen, {0: 6}, restart=1), 1.0).again


@pytest.mark.parametrize(
    ("state", "codes", "is_done"),
    [
        ("COMPLETED", {}, True),  # accounting's 0:0
        ("", {0: 0}, True),  # forgotten, but for the code that it left
        ("CANCELLED", {}, False),  # accounting tells 0:0 of it as well
        ("FAILED", {0: 1}, False),
    ],
)
def test_what_says_that_it_ended_well_is_waited_for_and_nothing_else(
    tmp_path: Path, state: str, codes: dict[int, int], is_done: bool
) -> None:
    seen = Seen(state=state, exit_code=0) if state else None
    assert reports_done(ended(tmp_path, seen, codes)) == is_done


def test_a_line_of_setup_that_failed_is_named_with_its_field(tmp_path: Path) -> None:
    (tmp_path / "7_0_log.out").write_text("slurm.setup: `module load cuda` failed")
    verdict = diagnose(ended(tmp_path, Seen(state="FAILED", exit_code=97), {}), 1.0)
    assert (verdict.outcome.status, verdict.again) == ("failed", False)
    assert "`module load cuda` failed" in verdict.outcome.message
    assert "correct slurm.setup" in verdict.outcome.message
