"""A campaign's stages as its folder has them: the records of its rounds, and stages begun.

<campaign>/rounds/{start,000,001,...,final}.json    finished rounds: artifacts by role
<campaign>/lineage/begun/<fp16>.json                a stage of a round that is not finished
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from afd.artifacts import ArtifactRef
from afd.config import Frozen
from afd.runtime.request import StageRequest
from afd.store import write_atomic
from flows.last_command import read_last_command
from flows.mlflow_runs.run_ids import CampaignEnding


class BegunStage(Frozen):
    """One stage that the campaign's process began to compute, or took from the store."""

    stage: str
    ref: ArtifactRef
    round_index: int | None
    began_ms: int
    outcome: str = ""  # of the attempt, where it left no artifact
    message: str = ""  # the last lines of its log then


@dataclass(frozen=True)
class StageFact:
    """One artifact of the campaign, made or not."""

    ref: ArtifactRef
    round_index: int | None
    begun: BegunStage | None = None


@dataclass(frozen=True)
class Facts:
    """Everything of a campaign that MLflow is to show."""

    stages: tuple[StageFact, ...]  # in the order of making, as far as it is known
    closed_rounds: tuple[int, ...]
    final: ArtifactRef | None  # the evaluation on all held-out prompts


def read_facts(folder: Path) -> Facts:
    """Return what stands in a campaign's folder; damaged files count as absent."""
    begun = {one.ref: one for one in _begun(folder)}
    names = ["start", *sorted(f.stem for f in (folder / "rounds").glob("[0-9]*.json")), "final"]
    found: dict[ArtifactRef, int | None] = {}
    closed: list[int] = []
    final = None
    for name in names:
        made = _round(folder / "rounds" / f"{name}.json")
        index = int(name) if name.isdecimal() else None
        if index is not None and made:
            closed.append(index)
        if name == "final":
            for ref, one in begun.items():  # of the round that runs: before what comes last
                found.setdefault(ref, one.round_index)
            final = made.get("evaluation")
        for ref in made.values():
            found.setdefault(ref, index)
    stages = tuple(StageFact(ref, index, begun.get(ref)) for ref, index in found.items())
    return Facts(stages, tuple(closed), final)


def note_begun(folder: Path, request: StageRequest, round_index: int | None, at_ms: int) -> None:
    """Write that a stage is computed now; an earlier attempt's outcome goes."""
    _write(
        folder,
        BegunStage(
            stage=request.stage, ref=request.output, round_index=round_index, began_ms=at_ms
        ),
    )


def note_outcome(folder: Path, ref: ArtifactRef, outcome: str, message: str) -> None:
    """Write that the attempt at `ref` left no artifact."""
    before = _read(_file(folder, ref))
    if before is not None:
        _write(folder, before.model_copy(update={"outcome": outcome, "message": message}))


def status_of(folder: Path) -> CampaignEnding:
    """Return how a campaign ended whose process is gone."""
    last = read_last_command(folder)
    if last is None:  # of a version that did not write it
        return "finished" if (folder / "summary.json").exists() else "killed"
    return "killed" if last.state in ("running", "cancelled") else last.state


def _file(folder: Path, ref: ArtifactRef) -> Path:
    return folder / "lineage" / "begun" / f"{ref.fingerprint[:16]}.json"


def _write(folder: Path, one: BegunStage) -> None:
    file = _file(folder, one.ref)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, one.model_dump_json().encode())


def _read(file: Path) -> BegunStage | None:
    try:
        return BegunStage.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def _begun(folder: Path) -> list[BegunStage]:
    files = (folder / "lineage" / "begun").glob("[!.]*.json")
    found = [one for file in files if (one := _read(file)) is not None]
    return sorted(found, key=lambda one: one.began_ms)


def _round(file: Path) -> dict[str, ArtifactRef]:
    try:
        content = json.loads(file.read_bytes())
        return {role: ArtifactRef.model_validate(ref) for role, ref in content.items()}
    except (OSError, ValueError, AttributeError):
        return {}  # a damaged one is written again by the campaign
