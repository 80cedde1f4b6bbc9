"""Parts of a splittable stage: their batches, and the parts that are still missing.

A splittable stage consists of batches, whose size is part of its identity; a part is a run of
consecutive batches. Any number of parts leaves the same bytes on CPU. File names alone show the
missing parts: nothing here imports torch.

    <work>/batches/<first>-<last>-<sha256[:16]>.safetensors   finished batches, whole or absent
    <work>/parts/<index>-of-<num_parts>.lock                  held while that part is computed
"""

import contextlib
import json
import re
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from afd.config import Frozen, rows_and_columns
from afd.runtime.outcome import RefusedError
from afd.runtime.request import StageName, StageRequest
from afd.store import Store

EVALUATION_BATCH = 64  # clips sampled and measured at once, where they are small
EVALUATION_PIXELS = 1 << 21  # of all frames of a batch: 1 clip of 480x832, 64 of 32x32
_NAME = re.compile(r"(\d{5})-(\d{5})-[0-9a-f]{16}\.safetensors")


class Part(Frozen):
    """One of `num_parts` parts of a stage, counted from 0."""

    kind: Literal["part"] = "part"
    index: int
    num_parts: int

    @model_validator(mode="after")
    def _is_one_of_them(self) -> "Part":
        if not 0 <= self.index < self.num_parts:
            raise ValueError(f"part {self}: must be 0/N to N-1/N")
        return self

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Parse "I/N"; raises ValueError."""
        index, _, num_parts = text.partition("/")
        return cls(index=int(index), num_parts=int(num_parts))

    def __str__(self) -> str:
        return f"{self.index}/{self.num_parts}"


class Gather(Frozen):
    """Task that builds the artifact from the batches of `num_parts` parts."""

    kind: Literal["gather"] = "gather"
    num_parts: int


Piece = Annotated[Part | Gather, Field(discriminator="kind")]


class StageTask(Frozen):
    """Task of one process: a whole stage, or a piece of it."""

    request: StageRequest
    piece: Piece | None = None


def max_parts(request: StageRequest) -> int:
    """Return the largest number of parts; 1 for a stage that cannot be split."""
    return max(1, num_batches(request.stage, request.params, request.inputs))


def missing(store: Store, request: StageRequest, num_parts: int) -> list[int]:
    """Return the indices of unfinished parts; none once the artifact exists.

    File names decide here; bytes are checked when batches are gathered.
    """
    if store.have(request.output):
        return []
    there = saved(store.work_path(request.output)).keys()
    parts = [Part(index=index, num_parts=num_parts) for index in range(num_parts)]
    return [part.index for part in parts if not there >= set(batches_of(request, part))]


def batches_of(request: StageRequest, part: Part) -> range:
    """Return the batches of one part; raises RefusedError for more parts than batches."""
    total = max_parts(request)
    if part.num_parts > total:
        raise RefusedError(
            f"{request.stage} cannot be split into {part.num_parts} parts: it has {total} "
            f"batch(es); ask for {total} parts at most"
        )
    return range(total * part.index // part.num_parts, total * (part.index + 1) // part.num_parts)


def num_batches(stage: StageName, params: dict[str, Any], roles: Collection[str]) -> int:
    """Return the number of batches of a stage; 0 for a stage that has none."""
    match stage:
        case "rollout":
            own = params["rollout"]
            return _ceil(own["num_prompts"] * own["group_size"], own["batch_size"])
        case "evaluate":
            # Student and base for each noise seed, the base's own look, the teacher if it is there.
            num_films = 2 * len(params["noise_seeds"]) + 1 + ("teacher_clips" in roles)
            return num_films * _ceil(params["num_prompts"], evaluation_batch(params))
        case "harvest" if params["teacher"]["kind"] in ("diffusers", "plugin"):
            return int(params["num_prompts"])  # a clip takes minutes
        case _:
            return 0


def evaluation_batch(params: Mapping[str, Any]) -> int:
    """Return the clips that evaluate samples and measures at once; part of its identity."""
    rows, columns = rows_and_columns(params["frame_size"])
    pixels = rows * columns * int(params["num_frames"])
    return max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // pixels))


def saved(work: Path) -> dict[int, Path]:
    """Return the file of each saved batch, by the files' names."""
    found: dict[int, Path] = {}
    for file in sorted((work / "batches").glob("*.safetensors")):
        if named := _NAME.fullmatch(file.name):
            found |= dict.fromkeys(range(int(named[1]), int(named[2]) + 1), file)
    return found


def show_progress(work: Path, done: int, total: int) -> None:
    """Write a stage's progress for people; nothing depends on it."""
    temporary = work / f".progress.{uuid.uuid4().hex}.tmp"
    with contextlib.suppress(OSError):  # a full disk is met elsewhere
        temporary.write_text(json.dumps({"done": done, "total": total}))
        temporary.rename(work / "progress.json")


def notices_file(work: Path) -> Path:
    """Return the file of a stage's notices; beside its work folder, which ends with the stage."""
    return work.parent / "notices" / f"{work.name}.txt"


def add_notice(work: Path, line: str) -> None:
    """Leave a line for whoever waits for the stage; nothing depends on it."""
    with contextlib.suppress(OSError):
        file = notices_file(work)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as opened:
            opened.write(line.replace("\n", " ") + "\n")


def _ceil(count: int, size: int) -> int:
    return -(-count // size)
