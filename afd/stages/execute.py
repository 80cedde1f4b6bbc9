"""Execution of a stage: skip a finished artifact, hold its lock, compute, publish.

The command line, the worker's children and tests all call this module.
"""

import contextlib
import functools
import importlib.metadata
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from afd.artifacts import Artifact, MadeBy, Manifest
from afd.attempts import Attempt, BusyError
from afd.config.cluster import SHARED
from afd.runtime.batches import Batches, Compute
from afd.runtime.outcome import RefusedError
from afd.runtime.parts import Gather, Part, StageTask, batches_of, max_parts
from afd.runtime.ranks import ALONE, BEGIN, Ranks
from afd.runtime.request import StageName, StageRequest
from afd.runtime.stage_log import log_end, log_start
from afd.runtime.workspace import Workspace
from afd.store import Store, disk_errors
from afd.version import CODE, NoCommit, commit_of

VERSIONED = ("torch", "diffusers", "numpy", "pymunk", "av")
Summary = dict[str, float | int | str | None]
SplitFunction = Callable[[dict[str, Any], dict[str, Artifact], Store], Compute]
StageFunction = Callable[[dict[str, Any], dict[str, Artifact], Store, Workspace], Summary]


def run_task(
    task: StageTask,
    store: Store,
    num_threads: int = 1,
    made_by: MadeBy | None = None,
    ranks: Ranks = ALONE,
) -> Artifact | None:
    """Run a task; return the artifact, or None after one part of it."""
    request = task.request
    if ranks.count > 1 and (not request.spec.is_shared or task.piece is not None):
        raise RefusedError(
            f"{request.stage} is not computed by several ranks, only {' and '.join(SHARED)} "
            "are; give it one task, or parts (--part I/N) where it can be split"
        )
    match task.piece:
        case Part():
            return compute_part(request, store, task.piece, num_threads)
        case Gather():
            return execute(request, store, num_threads, made_by, gather=task.piece.num_parts)
        case None:
            return execute(request, store, num_threads, made_by, ranks)


def execute(
    request: StageRequest,
    store: Store,
    num_threads: int = 1,
    made_by: MadeBy | None = None,
    ranks: Ranks = ALONE,
    *,
    gather: int | None = None,
) -> Artifact:
    """Return the artifact of `request`, made now unless it exists.

    A given `made_by` spares a call of git. With `gather`, the batches of that many parts are put
    together. Of several ranks the first calls this, the others `follow`. Raises RefusedError,
    StoreError and its kinds, StoppedError, or the exception of a bug in the stage.
    """
    ref = request.output
    if store.have(ref):
        if store.work_path(ref).exists():  # killed between publishing and tidying up
            with contextlib.suppress(BusyError), store.attempt(ref):
                pass
        return store.load(ref)
    with store.attempt(ref) as attempt:
        if store.have(ref):  # made by another process between the two checks
            return store.load(ref)
        run = stage_function(request.stage)  # before the clock: imports are not the stage's work
        with disk_errors(store.root):
            work = Workspace(attempt, ranks, gather)
            work.prepare()
            log_start(request, num_threads, ranks.count)
            inputs = read_inputs(request, store, num_threads)
            ranks.broadcast(BEGIN)
            with ranks.computing():
                summary = run(request.params, inputs, store, work)
        wall_s, cpu_s = work.spent()
        circumstance = {"num_threads": num_threads, "num_ranks": ranks.count}
        manifest = Manifest(
            schema_version=1,
            kind=ref.kind,
            fingerprint=ref.fingerprint,
            stage=request.stage,
            params=request.params,
            made_from=request.inputs,
            made_by=(made_by or describe_maker()).model_copy(update=circumstance),
            files={},
            summary=summary,
            wall_s=round(wall_s, 3),
            cpu_s=round(cpu_s, 3),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        artifact = store.save(ref, manifest, attempt)
        log_end(artifact, work.own_wall_s)
        return artifact


def follow(request: StageRequest, store: Store, num_threads: int, ranks: Ranks) -> None:
    """Compute along on every rank but the first, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="afd-rank-") as folder:
        work = Workspace(Attempt.begin(Path(folder)), ranks)
        work.prepare()
        inputs = read_inputs(request, store, num_threads)
        with ranks.computing():
            stage_function(request.stage)(request.params, inputs, store, work)


def compute_part(request: StageRequest, store: Store, part: Part, num_threads: int = 1) -> None:
    """Compute the missing batches of one part, unless the artifact exists.

    Raises what `execute` raises; RefusedError for a stage that cannot be split so.
    """
    ref = request.output
    wanted = batches_of(request, part)
    if store.have(ref):
        return
    batches = split_function(request.stage)
    with store.part(ref, f"{part.index}-of-{part.num_parts}") as path, disk_errors(store.root):
        if store.have(ref):  # gathered between the two checks
            return
        log_start(request, num_threads, 1, f", part {part.index} of {part.num_parts},")
        inputs = read_inputs(request, store, num_threads)
        compute = batches(request.params, inputs, store)
        try:
            Batches(path).make(wanted, max_parts(request), compute)
        except FileNotFoundError:
            if not store.have(ref):  # else another process gathered it and removed the folder
                raise


def read_inputs(request: StageRequest, store: Store, num_threads: int) -> dict[str, Artifact]:
    """Load and verify the inputs; set torch's thread limit where torch is imported."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(num_threads)
    return {role: store.load(made, verify=True) for role, made in request.inputs.items()}


def split_function(stage: StageName) -> SplitFunction:
    """Return `batches` of a splittable stage; raises RefusedError for another stage."""
    match stage:
        case "rollout":
            from afd.stages import rollout as module
        case "evaluate":
            from afd.stages import evaluate_batches as module
        case "harvest":
            from afd.stages import harvest as module
        case _:
            raise RefusedError(f"{stage} cannot be computed in parts: ask for it as a whole")
    return module.batches


def stage_function(stage: StageName) -> StageFunction:
    """Return `run` of a stage; imports this stage's module alone."""
    match stage:
        case "prompts":
            from afd.stages import prompts as module
        case "harvest":
            from afd.stages import harvest as module
        case "warmstart":
            from afd.stages import warmstart as module
        case "rollout":
            from afd.stages import rollout as module
        case "fit":
            from afd.stages import fit as module
        case "critic":
            from afd.stages import critic as module
        case "update":
            from afd.stages import update as module
        case "evaluate":
            from afd.stages import evaluate as module
        case "report":
            from afd.stages import report as module
    return module.run


def limit_threads(num_threads: int) -> None:
    """Limit the threads of every numerical library; call it before any of them is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    # pyarrow's jemalloc starts a thread when imported, and a worker with two threads must not fork.
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"


def describe_maker() -> MadeBy:
    """Return code revision, package versions and host; workers call it once."""
    commit = commit_of(CODE)
    known = (
        {"revision": "unknown", "is_dirty": True, "no_revision": commit.reason}
        if isinstance(commit, NoCommit)  # without a commit nothing proves clean code
        else {"revision": commit.sha, "is_dirty": commit.is_dirty}
    )
    content = known | {"versions": _versions(), "host": socket.gethostname()}
    return MadeBy.model_validate(content)


@functools.cache
def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute: 10 ms of reading each."""
    versions = {"python": platform.python_version()}
    return versions | {name: importlib.metadata.version(name) for name in VERSIONED}
