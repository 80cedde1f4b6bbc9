"""Cost of a stage's process: a process a stage, one worker that forks, all in one process.

The same tiny campaign three times gives the same artifacts byte for byte; the cost of a stage
beside its own work differs. docs/granularity.md has the numbers. `python -m benchmarks.granularity`
"""

import sys

from afd.config import Params
from afd.params import load_params
from benchmarks.campaigns import CLUSTER, PROJECT, Folder, folder, requests_of

PARAMS = PROJECT / "params" / "tiny.yaml"
SHORT, LONG = (
    "num_rounds=1",
    "num_rounds=3",
)  # two lengths part the cost of the campaign from that of a stage
WAYS = {
    "a process per stage (submitit)": "allocation=stage",
    "a worker that forks (submitit)": "allocation=campaign",
    "one process, one after the other": "",
}
Contents = dict[str, dict[str, str]]


def contents(at: Folder) -> Contents:
    """Return content digests by fingerprint, without the report, whose page has a date."""
    return {
        one.manifest.fingerprint: {name: e.sha256 for name, e in one.manifest.files.items()}
        for one in at.store.all()
        if one.manifest.kind != "report"
    }


def measure(way: str, length: str) -> tuple[float, float, Contents]:
    """Return seconds of the campaign, seconds beside its stages' own work, and the contents."""
    with folder() as at:
        if way:
            wall_s = at.afd(
                *("campaign", "--name", "bench", "--no-prefect", "--params", str(PARAMS)),
                *("--cluster", str(CLUSTER), "--set-cluster", way),
                *("--set-cluster", "num_children=1", "--set", length),
            )
        else:
            command = [sys.executable, "-m", "benchmarks.bare", str(PARAMS)]
            wall_s = at.run([*command, str(at.places.store), length])
        inside_s = sum(one.manifest.wall_s for one in at.store.all())
        return wall_s, wall_s - inside_s, contents(at)


def main() -> None:
    num_short, num_long = (
        len(requests_of(load_params(Params, PARAMS, (), [length]))) for length in (SHORT, LONG)
    )
    print(f"the tiny campaign with {num_short} and with {num_long} stages, one child at a time")
    made: list[tuple[Contents, Contents]] = []
    for name, way in WAYS.items():
        short_s, beside_short_s, short = measure(way, SHORT)
        long_s, beside_long_s, long = measure(way, LONG)
        made.append((short, long))
        a_stage_s = (beside_long_s - beside_short_s) / (num_long - num_short)
        print(
            f"  {name:34} {short_s:6.1f} s and {long_s:6.1f} s:  {a_stage_s:6.2f} s a stage, "
            f"{beside_short_s - num_short * a_stage_s:5.1f} s once",
            flush=True,
        )
    same = made[0] == made[1] == made[2]
    print(f"  artifacts {'identical, byte for byte' if same else 'DIFFER'}")
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    main()
