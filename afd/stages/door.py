"""The one way a stage runs: skip what exists, hold the artifact's lock, compute, publish.

Every caller comes through here: the command line, the worker's children, a test in this process.
"""

import contextlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from afd.artifacts import Artifact, MadeBy, Manifest
from afd.stages.request import StageName, StageRequest
from afd.stages.workspace import Workspace
from afd.store import BusyError, Store, told

VERSIONED = ("torch", "diffusers", "numpy", "pymunk", "av")
Summary = dict[str, float | int | str | None]
StageFunction = Callable[[dict[str, Any], dict[str, Artifact], Store, Workspace], Summary]


def execute(
    request: StageRequest, store: Store, num_threads: int = 1, made_by: MadeBy | None = None
) -> Artifact:
    """The artifact of `request`, made now unless it exists. `made_by` spares asking git again.

    Raises RefusedError, StoreError, BusyError, or whatever the stage's own bug raises.
    """
    ref = request.output
    if store.have(ref):
        if store.work_path(ref).exists():  # killed between publishing and tidying up
            with contextlib.suppress(BusyError), store.attempt(ref):
                pass
        return store.load(ref)
    with store.attempt(ref) as path:
        if store.have(ref):  # made by another process between the two questions
            return store.load(ref)
        run = stage_function(request.stage)  # before the clock: imports are not the stage's work
        with told(store.root):
            work = Workspace(path)
            work.prepare()
            inputs = {role: store.load(made, verify=True) for role, made in request.inputs.items()}
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(num_threads)
            summary = run(request.params, inputs, store, work)
        wall_s, cpu_s = work.spent()
        manifest = Manifest(
            schema_version=1,
            kind=ref.kind,
            fingerprint=ref.fingerprint,
            stage=request.stage,
            params=request.params,
            made_from=request.inputs,
            made_by=(made_by or describe_maker()).model_copy(update={"num_threads": num_threads}),
            files={},
            summary=summary,
            wall_s=round(wall_s, 3),
            cpu_s=round(cpu_s, 3),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return store.save(ref, manifest, work.out)


def stage_function(stage: StageName) -> StageFunction:
    """`run(params, inputs, store, work) -> Summary` of a stage; only its own imports are paid."""
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
        case "update":
            from afd.stages import update as module
        case "evaluate":
            from afd.stages import evaluate as module
        case "report":
            from afd.stages import report as module
    return module.run


def limit_threads(num_threads: int) -> None:
    """Tell every numerical library of this process before any of them is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    # pyarrow's jemalloc starts a thread when imported, and a worker with two threads must not fork.
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"


def describe_maker() -> MadeBy:
    """Which code on which machine: read once a process."""
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in VERSIONED}
    revision, is_dirty = _revision()
    return MadeBy(
        revision=revision, is_dirty=is_dirty, versions=versions, host=socket.gethostname()
    )


def _revision() -> tuple[str, bool]:
    """The commit of this code, or "unknown" where there is no git or no repository."""
    here = Path(__file__).resolve().parents[2]
    try:
        answers = [
            subprocess.run(
                ["git", "-C", str(here), *arguments],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            ).stdout.strip()
            for arguments in (
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", "--", "afd"],
            )
        ]
    except (OSError, subprocess.SubprocessError):
        return "unknown", True  # what cannot be named cannot be claimed clean
    return answers[0], bool(answers[1])
