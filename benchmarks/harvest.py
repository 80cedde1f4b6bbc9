"""Throughput of a harvest against the ideal of 16 slots, and a ledger of 100,000 orders.

    python -m benchmarks.harvest

The vendor is a process of its own (200 ms to every answer, jobs of 2 s), so that its CPU time is
not this one's. The ideal: every slot is full all the time, a task costs one answer's latency to
create, and polling adds none beside the job itself: 16 clips every 2.2 s. One run is measured
twice: the clips between two of the live numbers, which come twice a second while clips come
sixteen at a time, and the mean time in which all slots were filled once, by the creation times in
the ledger.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from afd.clips.requests import ClipRequest, clip_request, distinct, order_key, teacher_spec
from afd.config import RemoteTeacher
from afd.harvest.ledger import Ledger
from afd.harvest.progress import HarvestProgress
from afd.harvest.run import harvest
from afd.prompts import Prompt, prompt_id
from afd.store import Store

LATENCY_S, JOB_S, IN_FLIGHT = 0.2, 2.0, 16
NUM_CLIPS, NUM_ORDERS = 320, 100_000
KEY_VARIABLE = "AFD_BENCHMARK_KEY"


def main() -> None:
    os.environ[KEY_VARIABLE] = "none"
    folder = Path(tempfile.mkdtemp(prefix="afd-harvest-"))
    try:
        throughput(folder / "throughput")
        ledger(folder / "ledger")
    finally:
        shutil.rmtree(folder)


def throughput(root: Path) -> None:
    """Print clips a second while all slots are in use, against the ideal."""
    vendor = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.harvest_server", "--provider", "openai_videos"),
            *("--latency-s", str(LATENCY_S), "--job-s", str(JOB_S), "--film", "constant"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert vendor.stdout is not None
        teacher = teacher_at(vendor.stdout.readline().strip())
        marks: list[tuple[float, int]] = []

        def mark(live: HarvestProgress) -> None:
            marks.append((time.monotonic(), live.num_ended))

        cpu = time.process_time()
        done = harvest(teacher, Store(root), requests_for(teacher, NUM_CLIPS), on_change=mark)
        cpu = time.process_time() - cpu
        vendors_cpu = cpu_of(vendor.pid)
    finally:
        vendor.terminate()
        vendor.wait()
    assert done.stop is None and done.live.num_ended == NUM_CLIPS
    # From the second wave to the last order that still had others beside it.
    busy = [m for m in marks if 2 * IN_FLIGHT <= m[1] <= NUM_CLIPS - IN_FLIGHT]
    (start, first), (end, last) = busy[0], busy[-1]
    rate, ideal = (last - first) / (end - start), IN_FLIGHT / (LATENCY_S + JOB_S)
    print(f"{NUM_CLIPS} clips, {IN_FLIGHT} in flight, {LATENCY_S} s latency, jobs of {JOB_S} s")
    print(f"  {rate:.2f} clips/s of {ideal:.2f}: {rate / ideal:.1%} of the ideal (target: 90 %)")
    wave = LATENCY_S + JOB_S
    share = wave / time_of_a_wave(root)
    print(
        f"  {share:.1%} by the time of {IN_FLIGHT} creations ({wave / share:.3f} s of {wave:.1f})"
    )
    print(
        f"  CPU a clip: {cpu / NUM_CLIPS * 1000:.1f} ms here without the inspectors' processes, "
        f"{vendors_cpu / NUM_CLIPS * 1000:.1f} the vendor's; load {os.getloadavg()[0]:.1f}"
    )


def time_of_a_wave(root: Path) -> float:
    """Return seconds from a task's creation to that of the sixteenth after it, from wave 2 on."""
    with Ledger(root) as ledger:
        rows = ledger.query("SELECT submitted_at FROM orders ORDER BY submitted_at")
    at = [float(row["submitted_at"]) for row in rows][2 * IN_FLIGHT :]
    num_waves = len(at) // IN_FLIGHT - 1
    ends = at[num_waves * IN_FLIGHT :][:IN_FLIGHT]
    return sum(end - start for start, end in zip(at, ends, strict=False)) / len(ends) / num_waves


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process with all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def ledger(root: Path) -> None:
    """Print the times to plan 100,000 orders into an empty ledger and to resume from it."""
    teacher = teacher_at("http://127.0.0.1:9/v1")
    spec = teacher_spec(teacher)
    started = time.monotonic()
    requests = requests_for(teacher, NUM_ORDERS)
    with Ledger(root) as opened:
        opened.plan(spec, ((one, 0) for one in requests))
    planned = time.monotonic() - started
    started = time.monotonic()
    requests = list(distinct(requests_for(teacher, NUM_ORDERS)))
    with Ledger(root) as opened:
        opened.begin_work()
        opened.take_over(spec)
        attempts = opened.last_attempts(spec)
        keys = [
            order_key(one.request_id, attempts[one.request_id][0], seeded=True) for one in requests
        ]
        claim, _ = opened.claim(keys[0], 1, 10**9, 16)
        opened.end_work()
    resumed = time.monotonic() - started
    assert claim == "claimed" and len(keys) == NUM_ORDERS
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size_mb = sum(f.stat().st_size for f in root.rglob("*") if f.is_file()) / 1e6
    print(f"a ledger of {NUM_ORDERS:,} orders, {size_mb:.0f} MB on disk")
    print(f"  planned in {planned:.1f} s, resumed in {resumed:.1f} s (target: 5 s)")
    print(f"  {peak_mb:.0f} MB at most in this process (target: 400 MB)")


def teacher_at(base_url: str) -> RemoteTeacher:
    return RemoteTeacher.model_validate(
        {
            "kind": "remote",
            "provider": "openai_videos",
            "model": "film",
            "parameters": {},
            "duration_s": 1.0,
            "fps": 16.0,
            "size": {"width": 64, "height": 64},
            "seeded": True,
            "clips_per_prompt": 1,
            "on_mismatch": "resample",
            "num_retries": 0,
            "training_permitted": "yes",
            "terms": {"url": "https://example.com", "date": "2026-11-23"},
            "access": {
                "base_url": base_url,
                "key_variable": KEY_VARIABLE,
                "price": {"usd_per_clip": 0.0, "date": "2026-11-23"},
                "budget_usd": 0.0,
                "in_flight": IN_FLIGHT,
                "requests_per_minute": 60_000.0,
                "deadline_min": 5.0,
                "video_hosts": (),
                "min_clip_share": 1.0,
            },
        }
    )


def requests_for(teacher: RemoteTeacher, count: int) -> list[ClipRequest]:
    digest = teacher_spec(teacher).digest
    texts = (f"a ball of the number {n} falls from the left and bounces" for n in range(count))
    return [clip_request(digest, Prompt(prompt_id(text), text, "train"), 0) for text in texts]


if __name__ == "__main__":
    main()
