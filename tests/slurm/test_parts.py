"""A stage as an array of parts: chunked, throttled, a lost part alone computed again."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from flows.jobs.site import Site
from tests.slurm.conftest import MAX_ARRAY, RealSlurm, until
from tests.slurm.start import Start, doors, files
from tests.slurm.test_outcomes import Asked

NUM_PARTS = MAX_ARRAY + 1


def test_only_what_is_missing_is_submitted_in_arrays_that_the_cluster_takes(
    site: Callable[..., Site], slurm: RealSlurm, start: Start
) -> None:
    chosen = (f"resources.rollout.num_parts={NUM_PARTS}", "slurm.max_jobs=2")
    here = site("parts", *chosen, "resources.every_stage.mem_gb=2")
    shutil.copytree(start.store.root, here.store.root, dirs_exist_ok=True)
    asked = Asked(here, start.rollout)
    victim = until(lambda: [one for one in doors(here.store) if "--part" in one.cmdline()])[0]
    part = victim.cmdline()[victim.cmdline().index("--part") + 1]
    victim.send_signal(signal.SIGKILL)
    assert asked.end(120).status == "done"
    assert files(here.store, start.rollout) == files(start.whole, start.rollout)
    entry = asked.ledger.read(asked.name)
    assert entry is not None
    arrays = [job.parts for job in entry.jobs]
    assert arrays == [tuple(range(MAX_ARRAY)), (MAX_ARRAY,), (int(part.split("/")[0]),)]
    script = Path(here.submitit / f"{entry.jobs[0].job_id}_submission.sh").read_text()
    assert f"--array=0-{MAX_ARRAY - 1}%2" in script
    known = {task.split("_")[0] for task in slurm.jobs(f"afd-{asked.name}")}
    assert known >= {job.job_id for job in entry.jobs}
