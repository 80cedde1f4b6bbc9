"""What `evaluate` samples and measures, batch by batch: the part that several processes may share.

A film is everything one of those who are judged says to all prompts with one noise seed. What is
measured on a clip may depend in the last bit on the clips beside it, so batches are identity.
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
from afd.evaluation import drift, general, look, metrics
from afd.prompts import Prompt, prompts_of_round, read_jsonl
from afd.runtime.batches import Batch, Compute
from afd.runtime.cache import kept
from afd.runtime.identity import semantic
from afd.runtime.parts import evaluation_batch
from afd.runtime.revisions import REVISION
from afd.stages.seen import in_levels
from afd.store import Store
from afd.students.checkpoint import Loaded, load_student
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


class Film(NamedTuple):
    """All prompts answered by one of those who are judged, with one noise seed."""

    side: SideName
    noise_seed: int


def prompts_of(params: dict[str, Any], inputs: dict[str, Artifact]) -> list[Prompt]:
    """The held-out prompts, in the order of the prompt set's own shuffle."""
    prompts = read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))
    return prompts_of_round(
        prompts, params["split"], int(params["num_prompts"]), int(params["seed"]), 0
    )


def films_of(params: dict[str, Any], inputs: dict[str, Artifact]) -> list[Film]:
    """Who answers all prompts with which noise; batches run through them in this order."""
    noise_seeds = [int(value) for value in params["noise_seeds"]]
    films = [Film(side, noise) for side in ("student", "base") for noise in noise_seeds]
    films.append(Film("own_look", LOOK_SEED))
    return films + ([Film("teacher", -1)] if "teacher_clips" in inputs else [])


def batches(params: dict[str, Any], inputs: dict[str, Artifact], store: Store) -> Compute:
    """Batch n: what is measured on some clips of one film, and those to show.

    What base and teacher say is the same after every round and in every arm: it is sampled and
    measured once (of the pocket world's evaluations two thirds of the time), then read.
    """
    chosen, films = prompts_of(params, inputs), films_of(params, inputs)
    laws = world.laws(LawsParams.model_validate(params["laws"]))
    first = {film.side: film for film in reversed(films)}
    shown = set(spread(chosen, int(params["num_filmstrips"])))
    answer, is_pocket = answers(params, inputs, chosen), of_pocket_world(params, chosen)
    size = evaluation_batch(params)
    per_film = len(range(0, len(chosen), size))

    def compute(number: int) -> Batch:
        film, place = divmod(number, per_film)
        rows = range(len(chosen))[place * size : (place + 1) * size]
        side = films[film].side
        clips = answer(films[film], rows)
        sound, failed = finite(clips)
        made: dict[str, npt.NDArray[Any]] = {"features": look.look_features(sound)}
        if side != "own_look":
            if is_pocket:
                measured = metrics.measure(sound, [parse(chosen[r].text) for r in rows], laws)
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
                made |= filmed(clips, rows, params["fps"])
        if films[film] == first[side]:
            made["shown"] = as_levels(sound[[row in shown for row in rows]])
        return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in made.items()}

    others = {
        "revision": REVISION["evaluate"],
        "versions": [metrics.VERSION, look.VERSION, general.VERSION, drift.VERSION],
        "params": semantic(params),
        "inputs": {r: a.manifest.fingerprint for r, a in inputs.items() if r != "student"},
    }

    def compute_once(number: int) -> Batch:
        if films[number // per_film].side == "student":
            return compute(number)
        return kept(
            store, "films", others | {"batch": number}, lambda: compute(number), NUM_ENTRIES
        )

    return compute_once


def answers(
    params: dict[str, Any], inputs: dict[str, Artifact], prompts: list[Prompt]
) -> Callable[[Film, range], Clips]:
    """Clips of a film for some prompts; what makes them is loaded when it is first needed."""

    held: dict[str, Loaded] = {}

    def judged(side: SideName) -> Loaded:
        """One at a time: 14B twice, with a cache, does not fit 80 GB."""
        role = "student" if side == "student" else "reference"
        if role not in held:
            held.clear()
            held[role] = load_student(inputs[role].path, "average")
        return held[role]

    @cache
    def row_of() -> dict[int, int]:
        """Which row of the teacher's table answers a prompt, by the prompt's place."""
        table = read_table(inputs["teacher_clips"].path)
        return {at: row for row, at in enumerate(prompt_places(table, [p.text for p in prompts]))}

    def teacher(rows: range) -> Clips:
        """A prompt that the teacher refused is a failed clip."""
        answered = [row for row in rows if row in row_of()]
        wanted = [row_of()[row] for row in answered]
        films, _ = read_videos(
            inputs["teacher_clips"].path, canonical_format(params), conform, wanted
        )
        everybody = np.full((len(rows), *films.shape[1:]), np.nan, np.float32)
        everybody[[row - rows.start for row in answered]] = films.float().numpy() / np.float32(255)
        return everybody

    def answer(film: Film, rows: range) -> Clips:
        if film.side == "teacher":
            return teacher(rows)
        chosen = [prompts[row] for row in rows]
        asked = params.get("guidance"), params.get("horizon")
        return sample(judged(film.side), chosen, film.noise_seed, *asked)

    return answer


def sample(
    judged: Loaded,
    prompts: list[Prompt],
    noise_seed: int,
    guidance: float | None = None,
    horizon: int | None = None,
) -> Clips:
    """Clips [prompts, F, 3, H, W] as a file would show them; noise from (noise seed, prompt)."""
    noise_seeds = [noise_seed_of(noise_seed, prompt.id) for prompt in prompts]
    clips = sample_clips(judged, [p.text for p in prompts], noise_seeds, guidance, horizon)
    return (in_levels(clips) / 255).numpy()


def filmed(clips: Clips, rows: range, fps: int) -> dict[str, npt.NDArray[np.uint8]]:
    """mp4 bytes of clips [N, F, 3, H, W] by their row; a clip that is not finite has none."""
    return {
        f"film/{row}": np.frombuffer(encode_mp4(to_uint8(clip), fps), np.uint8).copy()
        for row, clip in zip(rows, clips, strict=True)
        if np.isfinite(clip).all()
    }


def as_levels(clips: Clips) -> npt.NDArray[np.uint8]:
    """A quarter of the bytes; clips hold nothing but levels of a file."""
    return np.rint(clips * 255).astype(np.uint8)


def of_pocket_world(params: Mapping[str, Any], prompts: Sequence[Prompt]) -> bool:
    """Whether physics can be read off: frames of the pocket world's grid, and its sentences."""
    if rows_and_columns(params["frame_size"]) != (ROOM_PX, ROOM_PX):
        return False
    return not any(_outside_grammar(prompt) for prompt in prompts)


def metric_names(params: Mapping[str, Any], prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """What is measured here on every clip."""
    return metrics.NAMES if of_pocket_world(params, prompts) else general.NAMES


def _outside_grammar(prompt: Prompt) -> bool:
    try:
        parse(prompt.text)
    except SentenceError:
        return True
    return False


def finite(clips: Clips) -> tuple[Clips, npt.NDArray[np.bool_]]:
    """Clips with those that hold NaN or infinity blacked out, and which ones they were."""
    failed = np.logical_not(np.isfinite(clips).all(axis=(1, 2, 3, 4), keepdims=True))
    return np.where(failed, np.float32(0), clips), failed.reshape(len(clips))


def spread(prompts: list[Prompt], count: int) -> list[int]:
    """Which prompts to show: half with two balls that meet, half others, in the set's order."""
    if any(_outside_grammar(prompt) for prompt in prompts):
        return list(range(min(count, len(prompts))))
    meeting = [i for i, prompt in enumerate(prompts) if parse(prompt.text).meets]
    others = [i for i in range(len(prompts)) if i not in set(meeting)]
    half = min(len(meeting), count // 2)
    return sorted(meeting[:half] + others[: count - half])
