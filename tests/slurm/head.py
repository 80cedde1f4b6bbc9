"""A head process of its own: computes one stage on the cluster. head.py FOLDER CAMPAIGN REQUEST
[OVERRIDE ...]"""

import sys
from pathlib import Path

from afd.runtime.request import StageRequest
from afd.store import Store
from flows.dispatch import build, compute
from flows.jobs.site import Site
from tests.slurm.conftest import cluster


def main() -> None:
    folder, campaign = Path(sys.argv[1]), sys.argv[2]
    request = StageRequest.model_validate_json(sys.argv[3])
    site = Site(Store(folder / "store"), folder / "runs" / campaign, cluster(*sys.argv[4:]))
    outcome = compute(build(site), site, request)
    print(outcome.status, outcome.message, flush=True)


if __name__ == "__main__":
    main()
