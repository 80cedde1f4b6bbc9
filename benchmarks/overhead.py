"""Cost of Prefect, submitit, MLflow and DVC against the bare stages in one process.

Rounds of 30 s or more (the pocket student with many update steps). Both sides are timed in turn,
from process start to process end; Prefect's server runs before, and its start is a number apart.
Target: at most 1.10. A finished campaign again: at most 5 s. `python -m benchmarks.overhead`
"""

import statistics
import sys

from benchmarks.campaigns import CLUSTER, PROJECT, Folder, folder, prefect_server

PARAMS = PROJECT / "params" / "pocket.yaml"
NUM_ROUNDS = 2
# A short warm start, and rounds that compute for more than half a minute.
OVERRIDES = (
    f"num_rounds={NUM_ROUNDS}",
    "warmstart.num_steps=20",
    "warmstart.num_clips=512",
    "update.num_steps=100",
    "evaluate.num_resamples=999",
)
REPEATS = 1


def bare(at: Folder) -> float:
    command = [sys.executable, "-m", "benchmarks.bare", str(PARAMS), str(at.places.store)]
    return at.run([*command, *OVERRIDES])


def stacked(at: Folder, api: str, *, side_by_side: int = 1) -> float:
    chosen = [word for override in OVERRIDES for word in ("--set", override)]
    return at.afd(
        *("campaign", "--name", "bench", "--params", str(PARAMS), "--cluster", str(CLUSTER)),
        *("--set-cluster", f"num_children={side_by_side}"),
        *chosen,
        PREFECT_API_URL=api,
    )


def main() -> None:
    ratios: list[float] = []
    for _ in range(REPEATS):
        with folder() as at:
            bare_s = bare(at)
            of_rounds = [
                one.manifest.wall_s
                for one in at.store.all()
                if one.manifest.stage in ("rollout", "fit", "update")
            ]
        with folder() as at, prefect_server(at) as (api, start_s):
            stacked_s = stacked(at, api)
            again_s = stacked(at, api)
        ratios.append(stacked_s / bare_s)
        print(
            f"bare {bare_s:6.1f} s (a round computes for {sum(of_rounds) / NUM_ROUNDS:.0f} s)   "
            f"through the stack {stacked_s:6.1f} s   ratio {ratios[-1]:.3f}   "
            f"finished campaign again {again_s:.1f} s   (Prefect's first start {start_s:.0f} s)",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.3f}, target at most 1.10")


if __name__ == "__main__":
    main()
