"""Recorded results of a pipeline's stage, put back where dvc removed them.

dvc deletes the outs of a stage before it runs the stage, so a run that is stopped takes committed
results with it. `persist: true` in dvc.yaml would leave them, and with it dvc's run cache knows
nothing of the stage (dvc 3.67, stage/cache.py). So the stage itself puts them back first: from
dvc's cache what dvc.lock names, else from the last commit. A run that ends well overwrites them.
"""

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import yaml

CACHE = Path(".dvc") / "cache" / "files" / "md5"
TIMEOUT_S = 20


def cell_name(*words: str) -> str:
    """Return the name of a cell's files: arm, world and seed."""
    return "-".join(re.sub(r"[^\w.-]", "_", word) for word in words)


def cell_files(name: str) -> list[Path]:
    """Return the outs of a cell, as dvc.yaml has them."""
    kinds = {"arms": "json", "curves": "csv", "prompts": "parquet"}
    return [Path("results") / kind / f"{name}.{ending}" for kind, ending in kinds.items()]


def put_back(files: Iterable[Path]) -> list[Path]:
    """Write those of a stage's outs that are not there; return the ones that were found.

    Paths are relative to the working directory, which is the one of dvc.yaml. Does nothing outside
    dvc.
    """
    missing = [file for file in files if not file.exists()]
    if "DVC_STAGE" not in os.environ or not missing:
        return []
    locked = _locked()
    found: list[Path] = []
    for file in missing:
        content = _from_cache(locked.get(str(file))) or _from_git(file)
        if content is not None:
            _write(file, content)
            found.append(file)
    return found


def _locked() -> dict[str, str]:
    """Return the md5 of every out in dvc.lock, by path."""
    try:
        stages = yaml.load(Path("dvc.lock").read_bytes(), Loader=yaml.CSafeLoader)["stages"]
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return {}
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {out["path"]: out["md5"] for out in outs if "md5" in out}


def _from_cache(md5: str | None) -> bytes | None:
    file = CACHE / md5[:2] / md5[2:] if md5 else None
    return file.read_bytes() if file is not None and file.is_file() else None


def _from_git(file: Path) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "show", f"HEAD:./{file}"], capture_output=True, timeout=TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _write(file: Path, content: bytes) -> None:
    from afd.store import write_atomic

    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, content)
