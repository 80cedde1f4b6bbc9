"""Stage `evaluate`: what the student's clips are worth, on held-out prompts it never trained on.

Everybody answers the same prompts with the same noise. With teacher clips among the inputs this is
the final judgement, with intervals paired by prompt; without them the cheaper look after a round.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from afd import seeds
from afd.artifacts import Artifact
from afd.config import LawsParams
from afd.data.prompts import Prompt, prompts_of_round, read_jsonl
from afd.data.shards import read_clips
from afd.data.sheets import filmstrips, side_by_side
from afd.data.text import encode
from afd.evaluation import look, metrics
from afd.evaluation.statistics import by_prompt, holm, mean_over_prompts, paired_difference
from afd.fingerprint import fingerprint
from afd.flow.solver import rollout
from afd.flow.times import step_list
from afd.stages.workspace import Workspace
from afd.store import Store, write_json
from afd.students.checkpoint import Loaded, load_student
from afd.world import build as world
from afd.world.sentences import parse

Clips = npt.NDArray[np.float32]
FRECHET = "frechet_distance"
NUM_FRECHET_RESAMPLES = 999  # each costs two eigendecompositions: 1 s in all
LOOK_SEED = 90_001  # noise of the base clips that define its own look; no evaluation seed


class Side(NamedTuple):
    """One of those who are judged: its clips for each noise seed and what was measured on them."""

    clips: list[Clips]  # a noise seed each: [prompts, F, 3, H, W]
    table: pd.DataFrame  # a row a prompt and noise seed
    num_failed: int
    features: list[npt.NDArray[np.float64]]


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Leaves summary.json, per_prompt.parquet, card.json, filmstrips/ and samples.mp4."""
    prompts = read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))
    seed, num_prompts = int(params["seed"]), int(params["num_prompts"])
    chosen = prompts_of_round(prompts, "held_out", num_prompts, seed, 0)
    noise_seeds = [int(value) for value in params["noise_seeds"]]
    laws = world.laws(LawsParams.model_validate(params["laws"]))
    student = load_student(inputs["student"].path, "average")
    base = load_student(inputs["reference"].path, "average")

    sides: dict[str, Side] = {}
    total = 2 * len(noise_seeds) + 1
    for name, judged in (("student", student), ("base", base)):
        clips: list[Clips] = []
        for noise_seed in noise_seeds:
            clips.append(sample(judged, chosen, noise_seed))
            work.progress(len(clips) + len(sides) * len(noise_seeds), total)
        sides[name] = judge(clips, chosen, noise_seeds, laws)
    if "teacher_clips" in inputs:
        films, table = read_clips(
            inputs["teacher_clips"].path, params["frame_size"], params["num_frames"]
        )
        if table["prompt_id"].tolist() != [prompt.id for prompt in chosen]:
            raise ValueError("the held-out teacher clips are about other prompts")
        sides["teacher"] = judge([films.numpy()], chosen, [-1], laws)
    own_look = look.look_features(finite(sample(base, chosen, LOOK_SEED))[0])
    measured = {
        name: compare(name, sides, params, seed) for name in metrics.NAMES
    }  # fmt: skip
    measured[FRECHET] = compare_look(sides, own_look, seed, params["confidence"])
    adjusted = holm({name: row.pop("p_value") for name, row in measured.items()})
    for name, row in measured.items():
        row["p_holm"] = adjusted[name]

    shown = spread(chosen, int(params["num_filmstrips"]))
    leave_pictures(work, sides, chosen, shown, params["fps"])
    summary = {
        "metrics": measured,
        "num_prompts": len(chosen),
        "noise_seeds": noise_seeds,
        "num_failed": {name: side.num_failed for name, side in sides.items()},
        "confidence": params["confidence"],
        "frechet_margin": params["frechet_margin"],
        "filmstrip_prompts": [chosen[index].text for index in shown],
    }
    write_json(work.out / "summary.json", summary)
    write_json(work.out / "card.json", card(params, chosen, inputs))
    tables = [side.table.assign(side=name) for name, side in sides.items()]
    pd.concat(tables).to_parquet(work.out / "per_prompt.parquet", index=False)
    means = {name: row["student"] for name, row in measured.items()}
    return means | {"num_prompts": len(chosen), "num_failed": sides["student"].num_failed}


def sample(judged: Loaded, prompts: list[Prompt], noise_seed: int) -> Clips:
    """Clips [prompts, F, 3, H, W] as a file would show them; noise from (noise seed, prompt)."""
    wan, student = judged.params, judged.student
    steps = step_list(wan.num_steps, wan.shift)
    shape = (len(steps), *student.geometry.shape(1)[1:])
    parts: list[torch.Tensor] = []
    for start in range(0, len(prompts), 64):
        batch = prompts[start : start + 64]
        noise = seeds.sample_noise([seeds.derive(noise_seed, "noise", p.id) for p in batch], shape)
        text = encode([p.text for p in batch], wan.num_text_tokens, wan.text_dim)
        parts.append(judged.codec.decode(rollout(student, text, noise, steps)))
    return ((torch.cat(parts) * 255).round() / 255).numpy()


def finite(clips: Clips) -> tuple[Clips, npt.NDArray[np.bool_]]:
    """Clips with those that hold NaN or infinity blacked out, and which ones they were."""
    failed = ~np.isfinite(clips).all(axis=(1, 2, 3, 4))
    return np.where(failed[:, None, None, None, None], np.float32(0), clips), failed


def judge(clips: list[Clips], prompts: list[Prompt], noise_seeds: list[int], laws: Any) -> Side:
    """Every metric of every clip; a failed clip keeps its row, without values."""
    sentences = [parse(prompt.text) for prompt in prompts]
    tables: list[pd.DataFrame] = []
    features: list[npt.NDArray[np.float64]] = []
    num_failed = 0
    for number, noise_seed in enumerate(noise_seeds):
        sound, failed = finite(clips[number])
        measured = metrics.measure(sound, sentences, laws)
        table = pd.DataFrame({name: np.where(failed, np.nan, v) for name, v in measured.items()})
        table.insert(0, "prompt_id", [prompt.id for prompt in prompts])
        table.insert(1, "prompt", [prompt.text for prompt in prompts])
        table.insert(2, "noise_seed", noise_seed)
        tables.append(table.assign(failed=failed))
        features.append(look.look_features(sound))
        num_failed += int(failed.sum())
    return Side(clips, pd.concat(tables, ignore_index=True), num_failed, features)


def compare(name: str, sides: dict[str, Side], params: dict[str, Any], seed: int) -> dict[str, Any]:
    """One metric of everybody; student minus base paired by prompt, noise seeds averaged inside."""
    values = {
        side: by_prompt(of.table["prompt_id"].tolist(), of.table[name].to_numpy(float))
        for side, of in sides.items()
    }
    resamples = (seeds.derive(seed, name), params["num_resamples"], params["confidence"])
    paired = paired_difference(values["student"], values["base"], *resamples)
    means = {side: mean_over_prompts(of, *resamples).mean for side, of in values.items()}
    return {
        "teacher": means.get("teacher"),
        "base": means["base"],
        "student": means["student"],
        "difference": paired.mean,
        "interval": [paired.low, paired.high],
        "num_prompts": paired.num_prompts,
        "num_dropped": paired.num_dropped,
        "method": paired.method,
        "p_value": paired.p_value,
    }


def compare_look(
    sides: dict[str, Side], own_look: npt.NDArray[np.float64], seed: int, confidence: float
) -> dict[str, Any]:
    """Frechet distance of everybody's look to the base's own, at one n; interval over prompts."""
    distances = {
        name: float(np.mean([_distance(part, own_look) for part in side.features]))
        for name, side in sides.items()
    }
    draw = seeds.numpy_generator(seed, FRECHET)
    resampled: list[float] = []
    for _ in range(NUM_FRECHET_RESAMPLES):
        rows = draw.integers(len(own_look), size=len(own_look))
        student, base = (
            np.mean([_distance(part[rows], own_look) for part in sides[name].features])
            for name in ("student", "base")
        )
        resampled.append(float(student - base))
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return {
        "teacher": distances.get("teacher"),
        "base": distances["base"],
        "student": distances["student"],
        "difference": distances["student"] - distances["base"],
        "interval": [float(low), float(high)],
        "num_prompts": len(own_look),
        "num_dropped": 0,
        "method": "percentile",
        "p_value": None,
    }


def _distance(features: npt.NDArray[np.float64], own_look: npt.NDArray[np.float64]) -> float:
    distance = look.frechet_distance(features, own_look).distance
    return math.nan if distance is None else distance


def spread(prompts: list[Prompt], count: int) -> list[int]:
    """Which prompts to show: half with two balls that meet, half others, in the set's order."""
    meeting = [i for i, prompt in enumerate(prompts) if parse(prompt.text).meets]
    others = [i for i in range(len(prompts)) if i not in set(meeting)]
    half = min(len(meeting), count // 2)
    return sorted(meeting[:half] + others[: count - half])


def leave_pictures(
    work: Workspace, sides: dict[str, Side], prompts: list[Prompt], shown: list[int], fps: int
) -> None:
    """A filmstrip a prompt, one film with everybody side by side, one sheet of the student."""
    order = [name for name in ("teacher", "base", "student") if name in sides]
    (work.out / "filmstrips").mkdir()
    for number, index in enumerate(shown):
        clips = [sides[name].clips[0][index] for name in order]
        (work.out / "filmstrips" / f"{number}.png").write_bytes(filmstrips(clips, order))
    films = [np.concatenate([sides[name].clips[0][i] for i in shown]) for name in order]
    (work.out / "samples.mp4").write_bytes(side_by_side(films, fps))
    labels = [prompts[index].text for index in shown]
    students = [sides["student"].clips[0][index] for index in shown]
    (work.out / "sheet.png").write_bytes(filmstrips(students, labels))


def card(
    params: dict[str, Any], prompts: list[Prompt], inputs: dict[str, Artifact]
) -> dict[str, Any]:
    """What two evaluations must share to be comparable; nothing of who was evaluated."""
    teacher = inputs.get("teacher_clips")
    return {
        "prompts": fingerprint([prompt.id for prompt in prompts])[:16],
        "num_prompts": len(prompts),
        "noise_seeds": [int(value) for value in params["noise_seeds"]],
        "num_frames": params["num_frames"],
        "frame_size": params["frame_size"],
        "fps": params["fps"],
        "laws": params["laws"],
        "metrics_version": metrics.VERSION,
        "look_version": look.VERSION,
        "teacher_clips": teacher.manifest.fingerprint[:16] if teacher else None,
        "num_resamples": params["num_resamples"],
        "confidence": params["confidence"],
        "frechet_margin": params["frechet_margin"],
    }
