"""Command line of one stage: `python -m afd.stages NAME --request FILE --store DIR [--threads N]`.

With `--part I/N` it computes one part of a stage that can be split, with `--gather N` it puts the
parts together and publishes. With AFD_RANK and its like set it is one of several processes that
compute fit or update together (runtime/ranks.py).

Exit codes: 0 done, 1 crash, 2 refused (bad input), 3 store or disk, 4 busy (made elsewhere now), 5
lost (another took over, or one that was needed is gone: ask again), 6 stopped (told to; what was
done is kept: ask again).
"""

import argparse
import contextlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from afd import signals
from afd.attempts import LostError
from afd.errors import EXIT_CODE
from afd.runtime import stage_log
from afd.runtime.outcome import RefusedError, explain, invalid, status_of
from afd.runtime.parts import Gather, Part
from afd.runtime.ranks import BEGIN, Ranks, joined
from afd.runtime.request import StageName, StageRequest
from afd.stages.execute import StageTask, follow, limit_threads, run_task
from afd.store import Store


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage, or a part of it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m afd.stages", description=__doc__)
    parser.add_argument("name", choices=get_args(StageName))
    parser.add_argument("--request", type=Path, required=True, help="what to compute, as JSON")
    parser.add_argument("--store", type=Path, required=True, help="folder of the artifacts")
    parser.add_argument("--threads", type=int, default=1, help="compute threads (default 1)")
    parser.add_argument("--hang-s", type=float, help="no progress for so long: write stacks, die")
    piece = parser.add_mutually_exclusive_group()
    piece.add_argument("--part", metavar="I/N", help="compute only part I of N, from 0")
    piece.add_argument("--gather", metavar="N", type=int, help="put N parts together and publish")
    chosen = parser.parse_args(argv)
    limit_threads(chosen.threads)
    signals.limit_silence(chosen.hang_s)
    try:
        task = read_task(chosen)
        with joined() as ranks:
            return run_ranks(ranks, task, Store(chosen.store), chosen.threads)
    except Exception as error:  # noqa: BLE001 (the process's border: every error becomes an exit code)
        return report_error(error, chosen.name, chosen.store)


def run_ranks(ranks: Ranks, task: StageTask, store: Store, num_threads: int) -> int:
    """Run a task on all ranks; return rank 0's exit code. Rank 0 alone publishes."""
    if not ranks.is_first:
        number = ranks.receive()
        if number == BEGIN:
            follow(task.request, store, num_threads, ranks)
            number = ranks.receive()
        return number
    code = 0
    try:
        if made := run_task(task, store, num_threads, ranks=ranks):
            sys.stdout.write(f"{made.path}\n")
    except Exception as error:  # noqa: BLE001 (the other ranks get its code)
        code = report_error(error, task.request.stage, store.root)
    with contextlib.suppress(LostError):
        ranks.broadcast(code)
    return code


def report_error(error: Exception, stage: str, store: Path) -> int:
    """Write the error to stderr; return its exit code."""
    status = status_of(error)
    if status == "failed":
        traceback.print_exception(error)
    sys.stderr.write(explain(error, stage, store) + "\n")
    return EXIT_CODE[status]


def read_task(chosen: argparse.Namespace) -> StageTask:
    """Return the task of the command line; raises RefusedError."""
    request = read_request(chosen.request)
    if request.stage != chosen.name:
        raise RefusedError(f"{chosen.request} asks for {request.stage}, not {chosen.name}")
    try:
        if chosen.part is not None:
            return StageTask(request=request, piece=Part.parse(chosen.part))
        if chosen.gather is not None:
            return StageTask(request=request, piece=Gather(num_parts=chosen.gather))
    except ValueError:
        raise RefusedError(
            f"--part {chosen.part}: must be I/N with I from 0 to N-1, as in --part 0/4"
        ) from None
    return StageTask(request=request)


def read_request(path: Path) -> StageRequest:
    """Read a request file; raises RefusedError naming the file and every bad field."""
    try:
        return StageRequest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RefusedError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise RefusedError(f"{path}: not a stage request: {invalid(error)}") from None


if __name__ == "__main__":
    signals.heed()
    stage_log.write_to_stderr()
    sys.exit(main())
