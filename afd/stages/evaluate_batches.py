"""Batches of `evaluate`: sampling and measuring, which several processes may share.

A cell holds the clips of one side for all prompts with one noise seed. A metric of a clip may
depend in its last bit on the other clips of its batch, so the batch size is part of the identity.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from afd.artifacts import Artifact
from afd.clips.shards import prompt_places, read_table, read_videos
from afd.config import LawsParams, rows_and_columns
from afd.evaluation.metrics import appearance, drift, general, pocket
from afd.prompts import Prompt, prompts_of_round, read_jsonl
from afd.runtime.batches import Batch, Compute
from afd.runtime.cache import cached
from afd.runtime.identity import semantic
from afd.runtime.parts import evaluation_batch
from afd.runtime.revisions import REVISION
from afd.stages.discriminator_inputs import in_levels
from afd.store import Store
from afd.students.checkpoint import LoadedStudent, load_student
from afd.students.sampling import noise_seed_of, sample_clips
from afd.video.canonical import canonical_format, conform
from afd.video.encode import encode as encode_mp4
from afd.world import build as world
from afd.world.rendering import to_uint8
from afd.world.scenes import ROOM_PX
from afd.world.sentences import SentenceError, parse

Clips = npt.NDArray[np.float32]
SideName = Literal["student", "base", "teacher", "own_look"]
NUM_ENTRIES = 4096  # batches: at 480p, where each is a clip, 3 final looks at 200 prompts
LOOK_SEED = 90_001  # noise of the base clips that define its own look; no evaluation seed


class Cell(NamedTuple):
    """Clips of one side for all prompts, with one noise seed."""

    side: SideName
    noise_seed: int


def prompts_of(params: dict[str, Any], inputs: dict[str, Artifact]) -> list[Prompt]:
    """Return the held-out prompts in the prompt set's shuffled order."""
    prompts = read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))
    return prompts_of_round(
        prompts, params["split"], int(params["num_prompts"]), int(params["seed"]), 0
    )


def cells_of(params: dict[str, Any], inputs: dict[str, Artifact]) -> list[Cell]:
    """Return the cells of an evaluation in the order of its batches."""
    noise_seeds = [int(value) for value in params["noise_seeds"]]
    cells = [Cell(side, noise) for side in ("student", "base") for noise in noise_seeds]
    cells.append(Cell("own_look", LOOK_SEED))
    return cells + ([Cell("teacher", -1)] if "teacher_clips" in inputs else [])


def batches(params: dict[str, Any], inputs: dict[str, Artifact], store: Store) -> Compute:
    """Return the function that computes batch n: metrics of some clips of a cell, and filmstrips.

    Clips of base and teacher are the same after every round and in every arm: they are sampled and
    measured once (two thirds of the time of the pocket world's evaluations), then read.
    """
    chosen, cells = prompts_of(params, inputs), cells_of(params, inputs)
    laws = world.laws(LawsParams.model_validate(params["laws"]))
    first = {cell.side: cell for cell in reversed(cells)}
    filmstrip_rows = set(spread(chosen, int(params["num_filmstrips"])))
    sample_rows, is_pocket = sampler(params, inputs, chosen), of_pocket_world(params, chosen)
    size = evaluation_batch(params)
    per_cell = len(range(0, len(chosen), size))

    def compute(number: int) -> Batch:
        cell, place = divmod(number, per_cell)
        rows = range(len(chosen))[place * size : (place + 1) * size]
        side = cells[cell].side
        clips = sample_rows(cells[cell], rows)
        sound, failed = finite(clips)
        made: dict[str, npt.NDArray[Any]] = {"features": appearance.look_features(sound)}
        if side != "own_look":
            if is_pocket:
                measured = pocket.measure(sound, [parse(chosen[r].text) for r in rows], laws)
            else:
                measured = general.measure(sound)
            made |= {"failed": failed} | {
                f"metric/{name}": np.where(failed, np.nan, values)
                for name, values in measured.items()
            }
            if params.get("horizon") and is_pocket:
                wandering = drift.measure(sound, [parse(chosen[r].text) for r in rows], laws)
                made |= {
                    f"drift/{name}": np.where(failed[:, None], np.nan, values)
                    for name, values in wandering.items()
                }
            if params.get("evaluators"):
                made |= encode_clips(clips, rows, params["fps"])
        if cells[cell] == first[side]:
            made["shown"] = as_levels(sound[[row in filmstrip_rows for row in rows]])
        return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in made.items()}

    others = {
        "revision": REVISION["evaluate"],
        "versions": [pocket.VERSION, appearance.VERSION, general.VERSION, drift.VERSION],
        "params": semantic(params),
        "inputs": {r: a.manifest.fingerprint for r, a in inputs.items() if r != "student"},
    }

    def compute_once(number: int) -> Batch:
        if cells[number // per_cell].side == "student":
            return compute(number)
        return cached(
            store, "films", others | {"batch": number}, lambda: compute(number), NUM_ENTRIES
        )

    return compute_once


def sampler(
    params: dict[str, Any], inputs: dict[str, Artifact], prompts: list[Prompt]
) -> Callable[[Cell, range], Clips]:
    """Return the function that samples rows of a cell; students load at first use."""
    held: dict[str, LoadedStudent] = {}

    def student_of(side: SideName) -> LoadedStudent:
        """Load one student at a time: two of 14B with a cache do not fit 80 GB."""
        role = "student" if side == "student" else "reference"
        if role not in held:
            held.clear()
            held[role] = load_student(inputs[role].path, "average")
        return held[role]

    @cache
    def row_of() -> dict[int, int]:
        """Return the row of the teacher's table by the place of its prompt."""
        table = read_table(inputs["teacher_clips"].path)
        return {at: row for row, at in enumerate(prompt_places(table, [p.text for p in prompts]))}

    def teacher(rows: range) -> Clips:
        """Return the teacher's clips; a refused prompt gives a failed clip."""
        answered = [row for row in rows if row in row_of()]
        wanted = [row_of()[row] for row in answered]
        clips, _ = read_videos(
            inputs["teacher_clips"].path, canonical_format(params), conform, wanted
        )
        frames = np.full((len(rows), *clips.shape[1:]), np.nan, np.float32)
        frames[[row - rows.start for row in answered]] = clips.float().numpy() / np.float32(255)
        return frames

    def sample_rows(cell: Cell, rows: range) -> Clips:
        if cell.side == "teacher":
            return teacher(rows)
        chosen = [prompts[row] for row in rows]
        options = params.get("guidance"), params.get("horizon")
        return sample(student_of(cell.side), chosen, cell.noise_seed, *options)

    return sample_rows


def sample(
    loaded: LoadedStudent,
    prompts: list[Prompt],
    noise_seed: int,
    guidance: float | None = None,
    horizon: int | None = None,
) -> Clips:
    """Return clips [prompts, F, 3, H, W] in 8-bit levels; noise from (noise seed, prompt)."""
    noise_seeds = [noise_seed_of(noise_seed, prompt.id) for prompt in prompts]
    clips = sample_clips(loaded, [p.text for p in prompts], noise_seeds, guidance, horizon)
    return (in_levels(clips) / 255).numpy()


def encode_clips(clips: Clips, rows: range, fps: int) -> dict[str, npt.NDArray[np.uint8]]:
    """Return mp4 bytes of clips [N, F, 3, H, W] by row; a clip that is not finite has none."""
    return {
        f"film/{row}": np.frombuffer(encode_mp4(to_uint8(clip), fps), np.uint8).copy()
        for row, clip in zip(rows, clips, strict=True)
        if np.isfinite(clip).all()
    }


def as_levels(clips: Clips) -> npt.NDArray[np.uint8]:
    """Return clips as uint8, a quarter of the bytes; their values are 8-bit levels already."""
    return np.rint(clips * 255).astype(np.uint8)


def of_pocket_world(params: Mapping[str, Any], prompts: Sequence[Prompt]) -> bool:
    """Return True where physics can be measured: pocket frame size and pocket sentences."""
    if rows_and_columns(params["frame_size"]) != (ROOM_PX, ROOM_PX):
        return False
    return not any(_outside_grammar(prompt) for prompt in prompts)


def metric_names(params: Mapping[str, Any], prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """Return the names of the metrics of every clip."""
    return pocket.NAMES if of_pocket_world(params, prompts) else general.NAMES


def _outside_grammar(prompt: Prompt) -> bool:
    try:
        parse(prompt.text)
    except SentenceError:
        return True
    return False


def finite(clips: Clips) -> tuple[Clips, npt.NDArray[np.bool_]]:
    """Black out clips that hold NaN or infinity; return clips and the mask of failed ones."""
    failed = np.logical_not(np.isfinite(clips).all(axis=(1, 2, 3, 4), keepdims=True))
    return np.where(failed, np.float32(0), clips), failed.reshape(len(clips))


def spread(prompts: list[Prompt], count: int) -> list[int]:
    """Return the prompts of filmstrips: half with two balls that meet, half others, in order."""
    if any(_outside_grammar(prompt) for prompt in prompts):
        return list(range(min(count, len(prompts))))
    meeting = [i for i, prompt in enumerate(prompts) if parse(prompt.text).meets]
    others = [i for i in range(len(prompts)) if i not in set(meeting)]
    half = min(len(meeting), count // 2)
    return sorted(meeting[:half] + others[: count - half])
