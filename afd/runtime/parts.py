"""Which stages may be computed in parts by several processes, and which parts are still missing.

A stage that can be split falls into batches, whose size is identity; a part is a run of consecutive
batches, and how many parts there are is circumstance. So any number of parts leaves the same bytes
on CPU. What launchers ask is answered from file names: nothing here imports torch.

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
        """From "I/N"; raises ValueError."""
        index, _, num_parts = text.partition("/")
        return cls(index=int(index), num_parts=int(num_parts))

    def __str__(self) -> str:
        return f"{self.index}/{self.num_parts}"


class Gather(Frozen):
    """Put together what `num_parts` parts have left."""

    kind: Literal["gather"] = "gather"
    num_parts: int


Piece = Annotated[Part | Gather, Field(discriminator="kind")]


class Asked(Frozen):
    """What one process is asked for: a whole stage, or a piece of it."""

    request: StageRequest
    piece: Piece | None = None


def max_parts(request: StageRequest) -> int:
    """Into how many parts a stage can be split at most; 1: it cannot be split."""
    return max(1, num_batches(request.stage, request.params, request.inputs))


def missing(store: Store, request: StageRequest, num_parts: int) -> list[int]:
    """The parts that are not whole yet, from 0; none once the artifact exists.

    Whole by its files' names: their bytes are checked when they are gathered.
    """
    if store.have(request.output):
        return []
    there = saved(store.work_path(request.output)).keys()
    parts = [Part(index=index, num_parts=num_parts) for index in range(num_parts)]
    return [part.index for part in parts if not there >= set(batches_of(request, part))]


def batches_of(request: StageRequest, part: Part) -> range:
    """The batches of one part; raises RefusedError for more parts than there are batches."""
    total = max_parts(request)
    if part.num_parts > total:
        raise RefusedError(
            f"{request.stage} cannot be split into {part.num_parts} parts: it has {total} "
            f"batch(es); ask for {total} parts at most"
        )
    return range(total * part.index // part.num_parts, total * (part.index + 1) // part.num_parts)


def num_batches(stage: StageName, params: dict[str, Any], roles: Collection[str]) -> int:
    """How many batches a stage falls into; 0 for one that is computed in one piece."""
    match stage:
        case "rollout":
            own = params["rollout"]
            return _ceil(own["num_prompts"] * own["group_size"], own["batch_size"])
        case "evaluate":
            # Student and base for each noise seed, the base's own look, the teacher if it is there.
            num_films = 2 * len(params["noise_seeds"]) + 1 + ("teacher_clips" in roles)
            return num_films * _ceil(params["num_prompts"], evaluation_batch(params))
        case "harvest" if params["teacher"]["kind"] == "diffusers":
            return int(params["num_prompts"])  # a clip takes minutes
        case _:
            return 0


def evaluation_batch(params: Mapping[str, Any]) -> int:
    """Clips that evaluate samples and measures at once; identity, by the size of a clip."""
    rows, columns = rows_and_columns(params["frame_size"])
    pixels = rows * columns * int(params["num_frames"])
    return max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // pixels))


def saved(work: Path) -> dict[int, Path]:
    """Batch -> the file that holds it, as the names say."""
    found: dict[int, Path] = {}
    for file in sorted((work / "batches").glob("*.safetensors")):
        if named := _NAME.fullmatch(file.name):
            found |= dict.fromkeys(range(int(named[1]), int(named[2]) + 1), file)
    return found


def show_progress(work: Path, done: int, total: int) -> None:
    """Leave how far a stage is for people to look at; nothing depends on it."""
    temporary = work / f".progress.{uuid.uuid4().hex}.tmp"
    with contextlib.suppress(OSError):  # a full disk is met elsewhere
        temporary.write_text(json.dumps({"done": done, "total": total}))
        temporary.rename(work / "progress.json")


def _ceil(count: int, size: int) -> int:
    return -(-count // size)
