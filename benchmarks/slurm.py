"""Cost of SLURM through the flow against bare sbatch, on four virtual nodes.

Both sides of every comparison in one run. `python -m benchmarks.slurm` starts its own cluster.
"""

import contextlib
import os
import shutil
import stat
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from afd.config import Cluster, Params
from afd.params import load_params
from afd.stages.requests import prompts
from afd.store import Store
from benchmarks.campaigns import PROJECT, requests_of
from flows.dispatch import build, compute
from flows.jobs.inside import StageJob
from flows.jobs.poller import Poller
from flows.jobs.records import Job, Seen
from flows.jobs.scheduler import SLURM
from flows.jobs.site import Site
from flows.jobs.slurm_queue import PATIENCE_S
from flows.jobs.submit import new_token, submit_slurm

SCRIPT = PROJECT / "tests" / "slurm" / "cluster.sh"
PARAMS = PROJECT / "params" / "tiny.yaml"
QUEUE_S = 30  # what every job waits before it may start
NUM_PARTS, NUM_WATCHED, REPEATS = 200, 500, 5
COMMENT = "afd-bench"  # of jobs that are watched


@contextlib.contextmanager
def running_cluster() -> Iterator[Path]:
    """Run a cluster of its own, removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="afd-slurm-"))
    chosen = {"AFD_SLURM_ROOT": str(root), "AFD_SLURM_PORT": "16900"}
    os.environ["SLURM_CONF"] = str(root / "slurm.conf")
    subprocess.run([str(SCRIPT), "start"], check=True, env={**os.environ, **chosen})
    try:
        yield root
    finally:
        subprocess.run([str(SCRIPT), "stop"], check=True, env={**os.environ, **chosen})
        shutil.rmtree(root, ignore_errors=True)


def place(folder: Path, *overrides: str) -> Site:
    chosen = ["slurm.poll_s=1", "resources.every_stage.mem_gb=1", *overrides]
    cluster = load_params(Cluster, PROJECT / "params" / "cluster" / "slurm.yaml", (), chosen)
    return Site(Store(folder / "store"), folder / "runs" / "bench", cluster)


def seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def measure_stage(folder: Path) -> None:
    """Print the time of the prompts stage through the flow, and of its command by sbatch."""
    by_flow: list[float] = []
    bare: list[float] = []
    for number in range(REPEATS):
        request = prompts(load_params(Params, PARAMS, (), [f"seed={number}"]))
        here = place(folder / f"by_flow{number}")
        by_flow.append(
            seconds(lambda here=here, request=request: compute(build(here), here, request))
        )
        assert here.store.have(request.output)
        file = folder / f"{number}.json"
        file.write_text(request.model_dump_json())
        command_line = (
            f"{sys.executable} -m afd.stages prompts --request {file} --store {folder}/bare"
        )
        command = ["sbatch", "--wait", "--output=/dev/null", f"--wrap=srun {command_line}"]
        bare.append(seconds(lambda command=command: _quiet(command)))
    extra = statistics.median(by_flow) - statistics.median(bare)
    print(
        f"a stage: through the flow {statistics.median(by_flow):.2f} s, sbatch --wait "
        f"{statistics.median(bare):.2f} s, {extra:+.2f} s; target: at most +3 s"
    )


def measure_array(folder: Path) -> None:
    """Print the time to submit 200 parts, and of one bare sbatch --array; no job runs."""
    here = place(folder / "array", "resources.rollout.num_parts=200", "slurm.partition=main")
    _quiet(["scontrol", "update", "partition=main", "state=down"])
    job = StageJob("rollout", "nowhere", "nowhere", 1, tuple(range(NUM_PARTS)), NUM_PARTS)
    parts = job.parts

    def act(_: object) -> None: ...

    def submit() -> None:
        submit_slurm(here, "bench", new_token(), "rollout", act, job, parts, NUM_PARTS)

    bare = ["sbatch", f"--array=0-{NUM_PARTS - 1}%64", "--output=/dev/null", "--wrap=true"]
    submit()  # imports submitit
    ours = statistics.median(seconds(submit) for _ in range(REPEATS))
    theirs = statistics.median(seconds(lambda: _quiet(bare)) for _ in range(REPEATS))
    _quiet(["scancel", "--user", str(os.getuid())])
    _quiet(["scontrol", "update", "partition=main", "state=up"])
    print(
        f"submitting {NUM_PARTS} parts: {1000 * ours:.0f} ms, one bare sbatch --array "
        f"{1000 * theirs:.0f} ms, {ours / theirs:.1f}x; target: at most 2x"
    )


def measure_polling(folder: Path) -> None:
    """Print queries an interval while 500 threads wait for 500 jobs, and the head's memory."""
    del folder
    _quiet(["scontrol", "update", "partition=main", "state=down"])
    submit = ["sbatch", "--parsable", f"--comment={COMMENT}", "--output=/dev/null", "--wrap=true"]
    ids = [
        subprocess.run(submit, check=True, capture_output=True, text=True).stdout.strip()
        for _ in range(NUM_WATCHED)
    ]
    num_queries = 0
    states = SLURM.states

    def counted(jobs: Sequence[Job], patience_s: float = PATIENCE_S) -> dict[str, Seen]:
        nonlocal num_queries
        num_queries += 1
        return states(jobs, patience_s)

    SLURM.states = counted  # type: ignore[method-assign]
    period_s, num_periods = 2.0, 5
    watch = Poller(period_s)
    until = time.monotonic() + period_s * num_periods

    def wait(job: Job) -> None:
        while time.monotonic() < until:
            watch.look([job])
            time.sleep(0.5)

    jobs = [Job(job_id=job_id, kind="slurm", token=COMMENT) for job_id in ids]
    threads = [threading.Thread(target=wait, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = watch.look(jobs) or {}
    SLURM.states = states  # type: ignore[method-assign]
    _quiet(["scancel", "--user", str(os.getuid())])
    _quiet(["scontrol", "update", "partition=main", "state=up"])
    print(
        f"watching {len(known)} jobs: {num_queries} queries in {num_periods} intervals; target: "
        f"one an interval. This process: {psutil.Process().memory_info().rss / 1e6:.0f} MB"
    )


def measure_round(folder: Path, allocation: str) -> None:
    """Print the time of one tiny round whose jobs wait 30 s each, and the head's peak memory."""
    shim = folder / "bin"
    shim.mkdir(parents=True)
    real = shutil.which("sbatch")
    (shim / "sbatch").write_text(f'#!/bin/sh\nexec {real} --begin=now+{QUEUE_S} "$@"\n')
    (shim / "sbatch").chmod(stat.S_IRWXU)
    command = [sys.executable, "-m", "flows.cli", "round", "--name", "bench", "--no-prefect"]
    command += ["--params", str(PARAMS), "--runs", str(folder / "runs")]
    command += ["--store", str(folder / "store")]
    command += ["--cluster", str(PROJECT / "params" / "cluster" / "slurm.yaml")]
    for chosen in (f"allocation={allocation}", "slurm.poll_s=1", "resources.every_stage.mem_gb=2"):
        command += ["--set-cluster", chosen]
    environment = {**os.environ, "PATH": f"{shim}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    started = time.perf_counter()
    head = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    most = 0
    while head.poll() is None:
        with contextlib.suppress(psutil.Error):
            most = max(most, psutil.Process(head.pid).memory_info().rss)
        time.sleep(0.5)
    wall_s = time.perf_counter() - started
    errors = head.stderr.read().decode() if head.stderr is not None else ""
    num_stages = len(list((folder / "store").glob("*/*/manifest.json")))
    how = "" if head.returncode == 0 else f"   FAILED: {errors[-500:]}"
    print(
        f"allocation {allocation:9} one round of {num_stages} stages, each job waits {QUEUE_S} s: "
        f"{wall_s:.0f} s, head {most / 1e6:.0f} MB at most (target: below 400){how}",
        flush=True,
    )


def main() -> None:
    if shutil.which("sbatch") is None:
        print("no SLURM here (`make slurm` installs it where it can): nothing was measured")
        return
    chosen = load_params(Params, PARAMS)
    print(f"{len(requests_of(chosen))} stages in the tiny campaign", flush=True)
    with running_cluster(), tempfile.TemporaryDirectory(prefix="afd-bench-") as name:
        folder = Path(name)
        for measure in (measure_stage, measure_array, measure_polling):
            measure(folder)
        for allocation in ("stage", "round", "campaign"):
            measure_round(folder / allocation, allocation)


def _quiet(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
