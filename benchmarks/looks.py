"""Time of one look at an array on SLURM, by its shards: the head looks ten times a second.

`python -m benchmarks.looks` needs no cluster: the scheduler's answer is given, every shard waits.
"""

import statistics
import tempfile
import time
from pathlib import Path

from afd.config import Cluster, Params
from afd.params import load_params
from afd.runtime.mailbox import request_id
from afd.stages import requests
from afd.store import Store
from benchmarks.campaigns import PROJECT
from flows.jobs.records import Job, Seen, StageRecord
from flows.jobs.site import Site
from flows.jobs.slurm import SlurmJobs
from flows.jobs.stage_wait import Wait

NUM_SHARDS, REPEATS, TARGET_MS = (64, 256, 1000), 20, 50
WAITS = Seen(state="PENDING", reason="Resources")


def look_ms(folder: Path, num_shards: int) -> float:
    """Return the median milliseconds of a look at `num_shards` parts that wait."""
    file = PROJECT / "params" / "cluster" / "slurm.yaml"
    cluster = load_params(Cluster, file, (), [f"resources.rollout.num_parts={num_shards}"])
    site = Site(Store(folder / "store"), folder / "runs" / str(num_shards), cluster)
    chosen = [f"rollout.num_prompts={num_shards}", "rollout.batch_size=2", "rollout.group_size=2"]
    params = load_params(Params, PROJECT / "params" / "tiny.yaml", (), chosen)
    prompt_set = requests.prompts(params).output
    request = requests.rollout(params, prompt_set, prompt_set, 0)
    parts = tuple(range(num_shards))
    job = Job(job_id="7", kind="slurm", token="afd-7", parts=parts, num_parts=num_shards)
    entry = StageRecord(
        name=request_id(request),
        stage="rollout",
        fingerprint=request.output.fingerprint,
        folder=str(site.submitit),
        jobs=(job,),
        attempts=1,
        submitted_at="",
    )
    jobs, wait = SlurmJobs(site), Wait(request, entry, num_shards)
    seen = dict.fromkeys(job.tasks, WAITS)
    taken: list[float] = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        jobs.look(wait, seen, 0.0)
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for num_shards in NUM_SHARDS:
            took = look_ms(Path(folder), num_shards)
            print(f"a look at {num_shards} shards: {took:.1f} ms; target: {TARGET_MS} ms at 1000")


if __name__ == "__main__":
    main()
