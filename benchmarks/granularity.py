"""How stages share a process: a process a stage, one worker that forks, all in one process.

The same tiny campaign three ways, the same artifacts byte for byte; what differs is what a stage
costs beside its own work. docs/granularity.md keeps the numbers. `python -m benchmarks.granularity`
"""

import sys

from afd.config import Params
from afd.params import load_params
from benchmarks.campaigns import CLUSTER, PROJECT, Folder, folder, requests_of

PARAMS = PROJECT / "params" / "tiny.yaml"
OVERRIDE = "num_rounds=1"  # ten stages are enough to divide by
WAYS = {
    "a process per stage (submitit)": "allocation=stage",
    "a worker that forks (submitit)": "allocation=campaign",
    "one process, one after the other": "",
}


def contents(at: Folder) -> dict[str, dict[str, str]]:
    """Content digests by fingerprint."""
    return {
        one.manifest.fingerprint: {name: e.sha256 for name, e in one.manifest.files.items()}
        for one in at.store.all()
    }


def measure(way: str) -> tuple[float, float, dict[str, dict[str, str]]]:
    """Wall seconds of the campaign, wall seconds inside its stages, and what it made."""
    with folder() as at:
        if way:
            wall_s = at.afd(
                *("campaign", "--name", "bench", "--no-prefect", "--params", str(PARAMS)),
                *("--cluster", str(CLUSTER), "--set-cluster", way),
                *("--set-cluster", "num_children=1", "--set", OVERRIDE),
            )
        else:
            command = [sys.executable, "-m", "benchmarks.bare", str(PARAMS)]
            wall_s = at.run([*command, str(at.places.store), OVERRIDE])
        inside_s = sum(one.manifest.wall_s for one in at.store.all())
        return wall_s, inside_s, contents(at)


def main() -> None:
    num_stages = len(requests_of(load_params(Params, PARAMS, (), [OVERRIDE])))
    print(f"the tiny campaign, {num_stages} stages, one child at a time")
    made: list[dict[str, dict[str, str]]] = []
    for name, way in WAYS.items():
        wall_s, inside_s, found = measure(way)
        made.append(found)
        beside_s = (wall_s - inside_s) / num_stages
        print(
            f"  {name:34} {wall_s:7.1f} s   inside stages {inside_s:6.1f} s   "
            f"beside them {beside_s:6.2f} s a stage",
            flush=True,
        )
    same = made[0] == made[1] == made[2]
    print(f"  artifacts {'identical, byte for byte' if same else 'DIFFER'}")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
