"""The stages of a campaign in this process, one after the other: the lower bound of the cost.

python -m benchmarks.bare PARAMS STORE [key=value ...]
"""

import sys
from pathlib import Path

from afd.config import Params
from afd.params import load_params
from afd.stages.execute import describe_maker, execute, limit_threads
from afd.store import Store
from benchmarks.campaigns import requests_of


def main() -> None:
    limit_threads(1)
    params = load_params(Params, Path(sys.argv[1]), (), sys.argv[3:])
    store, made_by = Store(Path(sys.argv[2])), describe_maker()
    for request in requests_of(params):
        execute(request, store, 1, made_by)


if __name__ == "__main__":
    main()
