"""All benchmarks, one after the other: `make bench`."""

import subprocess
import sys

BENCHMARKS = (
    *("student", "attention", "granularity", "overhead"),
    *("bytes", "harvest", "looks", "rounds", "slurm"),
)


def main() -> None:
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
