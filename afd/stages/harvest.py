"""Stage `harvest`: the teacher's clips for the prompts of a round, each paid once.

A clip is named by the hash of its request: teacher, prompt, sample number, sizes. Another round,
campaign, seed or clone with the same request reads it from the store; only missing clips are paid.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from afd import seeds
from afd.artifacts import Artifact
from afd.clips.library import add_bytes, find_clip
from afd.clips.lookup import read_shard_row, shards_by_key
from afd.clips.requests import ClipRequest, round_requests
from afd.clips.shards import write_shard
from afd.config import (
    DiffusersTeacher,
    FolderTeacher,
    LocalTeacher,
    PluginTeacher,
    RemoteTeacher,
    SimulatorTeacher,
    Teacher,
)
from afd.failpoints import failpoint
from afd.fingerprint import fingerprint
from afd.harvest.gather import Gathered, HarvestPausedError, gather
from afd.harvest.progress import HarvestProgress
from afd.harvest.status import NO_CATEGORY
from afd.prompts import Prompt, prompts_of_round, read_jsonl
from afd.runtime.batches import Batch, Compute
from afd.runtime.outcome import StoppedError
from afd.runtime.parts import num_batches
from afd.runtime.workspace import Workspace
from afd.signals import show_life
from afd.store import Store, write_json
from afd.teachers.build import build
from afd.teachers.teacher import PromptRefused
from afd.teachers.teacher import Teacher as Films
from afd.video.decode import decode

OUTCOMES = "outcomes.json"  # of a remote teacher or a folder: refusals bend its distribution
_TERMS = ("training_permitted", "terms")


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Write one shard: clips.tar and clips.parquet, a row for each prompt in the round's order.

    A prompt that the teacher refused has no row; `place` is a row's place in the round.
    """
    prompts = read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))
    teacher = TypeAdapter[Teacher](Teacher).validate_python(params["teacher"])
    if isinstance(teacher, LocalTeacher):
        return _from_local_teacher(teacher, params, inputs, store, work)
    return _from_library(teacher, params, prompts, store, work)


def _from_library(
    teacher: RemoteTeacher | FolderTeacher,
    params: dict[str, Any],
    prompts: list[Prompt],
    store: Store,
    work: Workspace,
) -> dict[str, float | int | str | None]:
    """Read clips from the store; order or import the missing ones."""
    requests = round_requests(params, teacher, prompts)

    news = ""

    def show(live: HarvestProgress) -> None:
        nonlocal news
        show_life()  # a vendor may take hours
        work.progress(live.num_done, live.num_wanted)
        if live.news not in ("", news):
            news = live.news
            sys.stderr.write(f"{news}\n")

    try:
        gathered = gather(teacher, store, requests, show)
    except HarvestPausedError as error:
        if error.reason == "interrupted":
            raise StoppedError(str(error)) from None
        raise
    rows = (
        gathered.answers[request.request_id].row()
        | {"prompt_id": request.prompt_id, "prompt": request.prompt, "place": place}
        for place, request in enumerate(requests)
        if request.request_id in gathered.answers
    )
    write_shard(work.out, rows)
    write_json(work.out / OUTCOMES, _by_category(requests, gathered))
    num_clips = sum(request.request_id in gathered.answers for request in requests)
    without = {f"num_{state}": number for state, number in gathered.without_clip.items()}
    return {
        "num_clips": num_clips,
        "num_paid": gathered.num_new,
        "num_reused": num_clips - gathered.num_new,
        "num_without_clip": len(requests) - num_clips,
        "cost_usd": gathered.cost_usd,
        **without,
    }


def _by_category(requests: Sequence[ClipRequest], gathered: Gathered) -> dict[str, dict[str, int]]:
    """Return prompt category -> number of requests with a clip, and by state of the others."""
    by_category: dict[str, Counter[str]] = {}
    for request in requests:
        state = (
            "clip" if request.request_id in gathered.answers else gathered.ends[request.request_id]
        )
        by_category.setdefault(request.category or NO_CATEGORY, Counter())[state] += 1
    return {
        category: dict(sorted(counts.items())) for category, counts in sorted(by_category.items())
    }


def _from_local_teacher(
    own: LocalTeacher,
    params: dict[str, Any],
    inputs: dict[str, Artifact],
    store: Store,
    work: Workspace,
) -> dict[str, float | int | str | None]:
    """Make the missing clips of a local teacher now, or gather them from the parts."""
    chosen = chosen_prompts(params, inputs)
    compute = batches(params, inputs, store)
    made: list[Batch] = []
    if total := num_batches("harvest", params, inputs):
        made = work.batches(total, compute)
    for number in range(len(made), len(chosen)):
        made.append(compute(number))
        work.progress(number + 1, len(chosen))
    numbered = sampled(params, inputs, own)
    answered = [place for place, batch in enumerate(made) if len(batch["clip"])]
    if not answered:
        raise PromptRefused(f"the teacher refused all {len(made)} prompts; the log says why")
    rows: list[dict[str, Any]] = []
    for place in answered:
        prompt, sample = numbered[place]
        row = {
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "seed": seed_of(request_key(params, prompt, sample)),
            "bytes": bytes(made[place]["clip"].numpy()),
        }
        rows.append(row if len(answered) == len(made) else row | {"place": place})
    write_shard(work.out, rows)
    num_paid = sum(int(batch["is_new"]) for batch in made)
    summary: dict[str, float | int | str | None] = {
        "num_clips": len(rows), "num_paid": num_paid, "num_reused": len(rows) - num_paid,
    }  # fmt: skip
    return summary if len(rows) == len(made) else summary | {"num_refused": len(made) - len(rows)}


def batches(params: dict[str, Any], inputs: dict[str, Artifact], store: Store) -> Compute:
    """Return the function of batch n: the n-th prompt's clip, saved in the store at once."""
    own = TypeAdapter[Teacher](Teacher).validate_python(params["teacher"])
    if not isinstance(own, LocalTeacher):
        raise TypeError(f"teacher.kind {own.kind} films elsewhere")
    numbered = sampled(params, inputs, own)
    teacher = cache(lambda: build(own, params["num_frames"], params["fps"]))
    shards = cache(lambda: shards_by_key(store, "seed"))  # read when the first clip is missing

    def compute(number: int) -> Batch:
        prompt, sample = numbered[number]
        key = request_key(params, prompt, sample)
        is_new = False
        there = find_clip(store, key)
        clip = None if there is None else there.read()
        if clip is None:
            seed = seed_of(key)  # 63 bits of the request
            if is_new := seed not in shards():
                try:
                    clip = pay(teacher(), prompt, key)
                except PromptRefused as error:  # the round goes on without it
                    sys.stderr.write(f"warning: no clip: {error}\n")
                    return {"clip": torch.zeros(0, dtype=torch.uint8), "is_new": torch.tensor(0)}
            else:
                clip = bytes(read_shard_row(shards()[seed], "seed", seed)["bytes"])
        if there is None or not there.note.exists():
            add_bytes(store, key, clip, about(own, prompt, sample, key))
        if is_new:
            failpoint("harvest.clip_paid")
        held = torch.from_numpy(np.frombuffer(clip, np.uint8).copy())
        return {"clip": held, "is_new": torch.tensor(int(is_new))}

    return compute


def chosen_prompts(params: dict[str, Any], inputs: dict[str, Artifact]) -> list[Prompt]:
    """Return the round's prompts in order."""
    prompts = read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))
    return prompts_of_round(
        prompts,
        params["split"],
        int(params["num_prompts"]),
        int(params["seed"]),
        int(params["round_index"]),
    )


def sampled(
    params: dict[str, Any],
    inputs: dict[str, Artifact],
    own: LocalTeacher,
) -> list[tuple[Prompt, int]]:
    """Return each prompt with its sample number: its n-th occurrence has its n-th clip."""
    prompts = read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))
    size = sum(prompt.split == params["split"] for prompt in prompts)
    before = int(params["round_index"]) * int(params["num_prompts"])
    return [
        (prompt, (before + number) // size % own.clips_per_prompt)
        for number, prompt in enumerate(chosen_prompts(params, inputs))
    ]


def request_key(params: dict[str, Any], prompt: Prompt, sample: int) -> str:
    """Return the identity of one paid clip: the request without the campaign.

    Terms (training_permitted), clips_per_prompt and white_box do not change the clip.
    """
    terms = {"training_permitted", "clips_per_prompt", "white_box"}
    sizes = {"num_frames": params["num_frames"], "fps": params["fps"]}
    if params["teacher"]["kind"] == "diffusers":  # its own sizes, its weights by content
        terms |= {"terms", "laws", "pipeline"}
        sizes = {"weights": params["content"]["teacher.pipeline"]}
    if params["teacher"]["kind"] == "plugin":
        terms |= {"terms", "laws"}
        sizes |= {"source": params["content"]["teacher.factory"]}
    teacher = {k: v for k, v in params["teacher"].items() if k not in terms}
    return fingerprint({"teacher": teacher, **sizes, "prompt": prompt.text, "sample": sample})


def seed_of(key: str) -> int:
    """Return the teacher's seed of a request key."""
    return seeds.derive(0, "teacher", key)


def about(own: LocalTeacher, prompt: Prompt, sample: int, key: str) -> dict[str, Any]:
    """Return the note of a clip in the library."""
    values = own.model_dump(mode="json", exclude_none=True)
    return {
        "key": key,
        "prompt": prompt.text,
        "prompt_id": prompt.id,
        "category": prompt.category,
        "provider": own.kind,
        "model": _model_of(own),
        "parameters": {name: value for name, value in values.items() if name not in _TERMS},
        "sample": sample,
        "seed": seed_of(key),
        "cost_usd": 0.0,
        **{name: values[name] for name in _TERMS if name in values},
    }


def _model_of(own: LocalTeacher) -> str:
    match own:
        case DiffusersTeacher(pipeline=model) | PluginTeacher(factory=model):
            return model
        case SimulatorTeacher():
            return own.kind


def pay(teacher: Films, prompt: Prompt, key: str) -> bytes:
    """Return the teacher's clip; raises when it does not decode."""
    clip = teacher.film(prompt.text, seed_of(key))
    decode(clip)
    return clip
