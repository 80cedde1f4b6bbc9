"""THE door: `python -m afd.stages NAME --request FILE --store DIR [--threads N]`.

Exit codes: 0 done, 1 crash, 2 refused (bad input), 3 store or disk, 4 busy (made elsewhere now).
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from afd.stages.door import execute, limit_threads
from afd.stages.outcome import EXIT_CODE, RefusedError, explain, invalid, status_of
from afd.stages.request import StageName, StageRequest
from afd.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage and say how it ended."""
    parser = argparse.ArgumentParser(prog="python -m afd.stages", description=__doc__)
    parser.add_argument("name", choices=get_args(StageName))
    parser.add_argument("--request", type=Path, required=True, help="what to compute, as JSON")
    parser.add_argument("--store", type=Path, required=True, help="folder of the artifacts")
    parser.add_argument("--threads", type=int, default=1, help="compute threads (default 1)")
    chosen = parser.parse_args(argv)
    limit_threads(chosen.threads)
    try:
        request = read_request(chosen.request)
        if request.stage != chosen.name:
            raise RefusedError(f"{chosen.request} asks for {request.stage}, not {chosen.name}")
        artifact = execute(request, Store(chosen.store), chosen.threads)
    except Exception as error:  # noqa: BLE001 (the process's border: every error becomes an exit code)
        status = status_of(error)
        if status == "failed":
            traceback.print_exc()
        sys.stderr.write(explain(error, chosen.name, chosen.store) + "\n")
        return EXIT_CODE[status]
    sys.stdout.write(f"{artifact.path}\n")
    return 0


def read_request(path: Path) -> StageRequest:
    """The request in a file; raises RefusedError naming the file and every bad field."""
    try:
        return StageRequest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RefusedError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise RefusedError(f"{path}: not a stage request: {invalid(error)}") from None


if __name__ == "__main__":
    sys.exit(main())
