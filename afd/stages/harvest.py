"""Stage `harvest`: the teacher's videos for the prompts of a round, each paid once and kept.

A video is named by the hash of what was asked: teacher, prompt, sample number, sizes. Asked again,
by another round, campaign, seed or clone, it is read from the store; only what is missing is paid.
"""

import hashlib
from pathlib import Path
from typing import Any

from afd import seeds
from afd.artifacts import Artifact
from afd.config import SimulatorTeacher
from afd.data.clips import decode
from afd.data.prompts import Prompt, prompts_of_round, read_jsonl
from afd.data.shards import read_shard, read_table, write_shard
from afd.failpoints import failpoint
from afd.fingerprint import fingerprint
from afd.stages.workspace import Workspace
from afd.store import Store, StoreError, write_atomic
from afd.teachers.simulator import build
from afd.teachers.teacher import Teacher


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Leaves one shard: clips.tar and clips.parquet, a row a prompt in the round's order."""
    own = SimulatorTeacher.model_validate(params["teacher"])
    prompts = read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))
    split, seed, round_index = params["split"], int(params["seed"]), int(params["round_index"])
    num_prompts = int(params["num_prompts"])
    chosen = prompts_of_round(prompts, split, num_prompts, seed, round_index)
    size = sum(prompt.split == split for prompt in prompts)
    teacher = build(own, params["num_frames"], params["fps"])
    rows: list[dict[str, Any]] = []
    num_paid = 0
    shards: dict[int, Path] | None = None  # looked for when the first clip is missing
    for number, prompt in enumerate(chosen):
        # The n-th time a prompt comes up it shows its n-th clip, then the first again.
        sample = (round_index * num_prompts + number) // size % own.clips_per_prompt
        key = request_key(params, prompt, sample)
        clip = kept(store, key)
        if clip is None:
            shards = delivered(store) if shards is None else shards
            clip = read_back(shards, key)
            if is_new := clip is None:
                clip = pay(teacher, prompt, key)
            keep(store, key, clip)
            if is_new:
                num_paid += 1
                failpoint("harvest.clip_paid")
        rows.append(
            {"prompt_id": prompt.id, "prompt": prompt.text, "seed": seed_of(key), "bytes": clip}
        )
        work.progress(number + 1, len(chosen))
    write_shard(work.out, rows)
    return {"num_clips": len(rows), "num_paid": num_paid, "num_reused": len(rows) - num_paid}


def request_key(params: dict[str, Any], prompt: Prompt, sample: int) -> str:
    """The identity of one paid video: what was asked of whom, and nothing of who asks.

    Terms (training_permitted) and how many clips a campaign wants do not change the video.
    """
    terms = {"training_permitted", "clips_per_prompt"}
    return fingerprint(
        {
            "teacher": {k: v for k, v in params["teacher"].items() if k not in terms},
            "num_frames": params["num_frames"],
            "fps": params["fps"],
            "prompt": prompt.text,
            "sample": sample,
        }
    )


def seed_of(key: str) -> int:
    """The teacher's seed for this request: the request decides it."""
    return seeds.derive(0, "teacher", key)


def pay(teacher: Teacher, prompt: Prompt, key: str) -> bytes:
    """Ask the teacher, and believe nothing that does not decode."""
    clip = teacher.film(prompt.text, seed_of(key))
    decode(clip)
    return clip


def keep(store: Store, key: str, clip: bytes) -> None:
    """Into the append-only part of the store, whole or not at all; its name carries its hash."""
    folder = store.clips / key[:2]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{key}.{_digest(clip)}.mp4", clip)


def kept(store: Store, key: str) -> bytes | None:
    """The video already paid for, or None. Raises StoreError when its bytes have changed."""
    damaged: list[str] = []
    for path in sorted((store.clips / key[:2]).glob(f"{key}.*.mp4")):
        clip = path.read_bytes()
        if path.name == f"{key}.{_digest(clip)}.mp4":
            return clip
        damaged.append(str(path))
    if damaged:
        raise StoreError(
            f"{damaged[0]}: a paid teacher video has changed on disk. Restore it from a backup; "
            f"only if it is lost for good, `rm {damaged[0]}` and run the same command again to pay "
            "for it once more"
        )
    return None


def delivered(store: Store) -> dict[int, Path]:
    """The teacher's seed -> the shard that holds its video: what stands in a shard was paid.

    A clone that pulled shards has no clips/. Raises StoreError or ShardError for a shard that
    cannot be read: it is restored first, for nobody knows what of it was paid.
    """
    made = [artifact.ref for artifact in store.all() if artifact.manifest.kind == "teacher_clips"]
    folders = [store.load(ref).path for ref in made]
    return {int(seed): folder for folder in folders for seed in read_table(folder)["seed"]}


def read_back(shards: dict[int, Path], key: str) -> bytes | None:
    """The video of this very request (its seed is 63 bits of it), verified; None: never paid."""
    seed = seed_of(key)
    if seed not in shards:
        return None
    return next(bytes(row["bytes"]) for row in read_shard(shards[seed]) if row["seed"] == seed)


def _digest(clip: bytes) -> str:
    return hashlib.sha256(clip).hexdigest()[:16]
