"""Stages of a campaign as its folder has them: the records of its rounds, and stages begun.

<campaign>/rounds/{start,000,001,...,final}.json    finished rounds: artifacts by role
<campaign>/lineage/begun/<fp16>.json                a stage of a round that is not finished
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from afd.artifacts import ArtifactRef
from afd.config import Frozen
from afd.runtime.request import StageRequest
from afd.store import write_atomic
from flows.last_command import read_last_command
from flows.mlflow_runs.run_ids import CampaignEnding, stage_key
from flows.round_files import known_round
from flows.small_files import SmallFiles


class BegunStage(Frozen):
    """Stage that the campaign's process began to compute, or took from the store."""

    stage: str
    ref: ArtifactRef
    round_index: int | None
    began_ms: int
    outcome: str = ""  # of the attempt, where it left no artifact
    message: str = ""  # the last lines of its log then


_BEGUN = SmallFiles(BegunStage.model_validate_json)


@dataclass(frozen=True)
class Facts:
    """Stages and rounds of a campaign."""

    stages: dict[ArtifactRef, int | None]  # with their round; in the order of making
    begun: dict[ArtifactRef, BegunStage]
    closed_rounds: tuple[int, ...]
    final: ArtifactRef | None  # the evaluation on all held-out prompts


def read_facts(folder: Path) -> Facts:
    """Return the content of a campaign's folder; damaged files count as absent."""
    files = (folder / "lineage" / "begun").glob("[!.]*.json")
    found = [one for file in files if (one := _read(file)) is not None]
    begun = {one.ref: one for one in sorted(found, key=lambda one: one.began_ms)}
    files = (f for f in sorted((folder / "rounds").glob("*.json")) if f.stem.isdecimal())
    rounds = {int(file.stem): known_round(file) for file in files}
    start, final = (known_round(folder / "rounds" / f"{name}.json") for name in ("start", "final"))
    stages: dict[ArtifactRef, int | None] = dict.fromkeys(start.values())
    for index, made in rounds.items():
        for ref in made.values():
            stages.setdefault(ref, index)
    for ref, one in begun.items():  # of the round that runs: before the end
        stages.setdefault(ref, one.round_index)
    for ref in final.values():
        stages.setdefault(ref, None)
    closed = tuple(index for index, made in rounds.items() if made)
    return Facts(stages, begun, closed, final.get("evaluation"))


def note_begun(folder: Path, request: StageRequest, round_index: int | None, at_ms: int) -> None:
    """Write the start of a stage, without the outcome of an earlier attempt."""
    ref = request.output
    one = BegunStage(stage=request.stage, ref=ref, round_index=round_index, began_ms=at_ms)
    _write(folder, one)


def note_outcome(folder: Path, ref: ArtifactRef, outcome: str, message: str) -> None:
    """Write the outcome of an attempt that left no artifact."""
    before = _read(_file(folder, ref))
    if before is not None:
        _write(folder, before.model_copy(update={"outcome": outcome, "message": message}))


def status_of(folder: Path) -> CampaignEnding:
    """Return the ending of a campaign whose process is gone."""
    last = read_last_command(folder)
    if last is None:  # of a version that did not write it
        return "finished" if (folder / "summary.json").exists() else "killed"
    return "killed" if last.state in ("running", "cancelled") else last.state


def _file(folder: Path, ref: ArtifactRef) -> Path:
    return folder / "lineage" / "begun" / f"{stage_key(ref)}.json"


def _write(folder: Path, one: BegunStage) -> None:
    file = _file(folder, one.ref)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, one.model_dump_json().encode())


def _read(file: Path) -> BegunStage | None:
    try:
        return _BEGUN.read(file)
    except (OSError, ValidationError):
        return None
