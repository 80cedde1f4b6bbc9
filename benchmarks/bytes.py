"""Cost of inspecting and canonicalising clips against PyAV's decoding and encoding alone.

python -m benchmarks.bytes [NUM_CLIPS]

Both sides read the same files and write the same number of encoded frames at the same size with the
same encoder settings. CPU seconds of this process and its children.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from afd.config import CanonicalParams
from afd.video.canonical import CanonicalFormat, as_delivered, canonical
from afd.video.encode import encode
from afd.video.inspection import Inspectors, ValidClip

TARGET = 0.8
SAME = "bframes=0:no-mbtree=1:rc-lookahead=0"  # the settings of afd/video/encode.py
SHORTEST = 48  # clips of 64 px: more is measured, and no child is replaced meanwhile
KINDS = ((1280, 720, 24, 49, 480), (640, 480, 16, 49, 256), (64, 64, 16, 16, 16))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    num_cores = len(os.sched_getaffinity(0))
    print(f"{count} clips a row, {num_cores} cores; ratio of clips per CPU second, target {TARGET}")
    with tempfile.TemporaryDirectory() as folder:
        for width, height, fps, num_frames, size in KINDS:
            some = max(count, SHORTEST) if height == 64 else count
            measure(Path(folder), width, height, fps, num_frames, size, some)
    print_cost_of_a_round()


def measure(
    folder: Path, width: int, height: int, fps: int, num_frames: int, size: int, count: int
) -> None:
    """Print the ratio for one kind of clip, and the memory after few and after many clips."""
    wanted = num_frames * 16 // fps
    canon = CanonicalFormat(policy(), wanted, size, 16)
    paths = [folder / f"{width}-{number}.mp4" for number in range(count)]
    original = encode(moving(num_frames, height, width), fps, 20)
    for path in paths:
        path.write_bytes(original)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    alone: list[float] = []
    ours: list[float] = []
    with Inspectors(len(os.sched_getaffinity(0))) as pool:
        # Children start before the clock does.
        assert all(isinstance(verdict, ValidClip) for _, verdict in pool.map(paths[:2], canon, out))
        for _ in range(5):  # in turn, so that a busy machine slows both
            alone.append(cpu_s_of_self(lambda: [reencode(path, size, wanted) for path in paths]))
            ours.append(cpu_s_of_children(pool, lambda: list(pool.map(paths, canon, out))))
        before = largest_memory_mb(pool)
        for _ in range(3):
            list(pool.map(paths, canon, out))
        after = largest_memory_mb(pool)
    print(
        f"{width}x{height}, {num_frames} frames -> {size} px, {wanted} frames: "
        f"{count / min(alone):.1f} alone, {count / min(ours):.1f} checked and canonical, "
        f"ratio {min(alone) / min(ours):.2f}; memory {before:.0f} -> {after:.0f} MB "
        f"after {3 * count} clips more"
    )


def reencode(path: Path, size: int, wanted: int) -> None:
    """Decode every frame, scale and encode the wanted ones: the least possible work."""
    scaler = VideoReformatter()
    with av.open(str(path)) as source, av.open(os.devnull, "w", format="null") as sink:
        source.streams.video[0].thread_count = 1
        stream = sink.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"qp": "20", "preset": "veryfast", "x264-params": SAME}
        for number, frame in enumerate(source.decode(video=0)):
            if number >= wanted:
                continue
            small = scaler.reformat(frame, size, size, format="yuv420p", threads=1)
            small.pts, small.time_base = number, Fraction(1, 16)
            sink.mux(stream.encode(small))
        sink.mux(stream.encode(None))


def print_cost_of_a_round() -> None:
    """Print the cost of the path for a round of the pocket campaign: 512 rollouts of 16x16x16."""
    own = policy().model_copy(update={"magnify": 4, "chroma": "444"})
    canon = CanonicalFormat(own, 16, 16, 16)
    clip = moving(16, 16, 16)
    started = time.process_time()
    for _ in range(128):
        canonical(as_delivered(clip, canon), canon)
    print(f"512 pocket rollouts through the path: {4 * (time.process_time() - started):.1f} s")


def policy() -> CanonicalParams:
    return CanonicalParams(
        magnify=1, crf=12, qp=20, chroma="420", longer="first", shorter="hold", aspect="crop"
    )


def moving(num_frames: int, height: int, width: int) -> np.ndarray:
    """Return pictures with edges, texture and motion, which are costly to encode."""
    draw = np.random.default_rng(0)
    coarse = draw.uniform(0, 255, (height // 8 + 2, width // 8 + 2, 3)).repeat(8, 0).repeat(8, 1)
    texture = draw.normal(0, 3, (height, width, 3))
    frames = [
        np.clip(np.roll(coarse, (number, 2 * number), (0, 1))[:height, :width] + texture, 0, 255)
        for number in range(num_frames)
    ]
    return np.stack(frames).astype(np.uint8)


def cpu_s_of_self(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def cpu_s_of_children(pool: Inspectors, work: Callable[[], object]) -> float:
    """Return the CPU seconds of the children and of this process."""
    started = sum(cpu_s(pid) for pid in pool.pids()) + time.process_time()
    work()
    return sum(cpu_s(pid) for pid in pool.pids()) + time.process_time() - started


def cpu_s(pid: int) -> float:
    """Return CPU seconds of living threads, to 1 ns: a clip of 64 px takes less than a tick."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def largest_memory_mb(pool: Inspectors) -> float:
    """Return the resident memory, MB, of the largest among the children and this process."""
    return max(
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
        for pid in [os.getpid(), *pool.pids()]
    )


if __name__ == "__main__":
    main()
