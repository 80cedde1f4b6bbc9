"""A small finished campaign on disk: real requests and files (safetensors, PNG, mp4), no training.

The numbers are made up, in the shape that the stages leave them; what is tested on it is what
happens around artifacts, never what is in them.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image
from safetensors.numpy import save_file

from afd.artifacts import Artifact, ArtifactRef, MadeBy, Manifest
from afd.clips.shards import write_shard
from afd.config import OutsideEvaluator, Params
from afd.evaluation.external import Answer
from afd.params import load_params
from afd.runtime.request import StageRequest
from afd.seeds import numpy_generator
from afd.stages import evaluate_external, requests
from afd.store import Store, write_json
from afd.video.contact_sheets import side_by_side
from afd.video.encode import encode

SENTENCES = (
    "a small red ball falls from the left",
    "a large blue ball bounces on the floor",
    "two balls meet in the middle",
)
SIDES = ("base", "student")
METRICS = {  # teacher, base, student
    "trajectory_error_px": (0.12, 3.5, 0.6),
    "gravity": (0.15, 0.046, 0.13),
    "object_permanence": (1.0, 1.0, 0.99),
    "interpenetration": (0.0, 0.61, 0.1),
    "frechet_distance": (0.9, 0.0, 0.08),
}
POCKET = Path(__file__).parents[2] / "params" / "pocket.yaml"


def small_params() -> Params:
    """The pocket campaign's params; nothing here is computed with them."""
    return load_params(Params, POCKET)


@dataclass
class CampaignOnDisk:
    """Its store, and every request with the artifact it left, in the order of making."""

    root: Path
    params: Params
    store: Store
    made: list[tuple[int | None, StageRequest, Artifact]] = field(default_factory=list)
    rounds: list[dict[str, ArtifactRef]] = field(default_factory=list)
    evaluation: Artifact | None = None

    @property
    def folder(self) -> Path:
        return self.root / "runs" / "demo"

    def of_round(self, index: int | None) -> list[Artifact]:
        return [artifact for at, _, artifact in self.made if at == index]

    def write_folder(self) -> None:
        """Write what a campaign's own process leaves: params and the record of every round."""
        of_campaign = {one.manifest.stage: one.ref for one in self.of_round(None)}
        final = {"evaluation": of_campaign.pop("evaluate")}
        if "report" in of_campaign:
            final["report"] = of_campaign.pop("report")
        rounds = {f"{index:03d}": made for index, made in enumerate(self.rounds)}
        (self.folder / "rounds").mkdir(parents=True, exist_ok=True)
        for name, record in {"start": of_campaign, **rounds, "final": final}.items():
            content = {role: ref.model_dump() for role, ref in record.items()}
            write_json(self.folder / "rounds" / f"{name}.json", content)
        values = self.params.model_dump(mode="json")
        (self.folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def save(self, index: int | None, request: StageRequest, seed: int = 0) -> Artifact:
        """Publish an artifact with plausible files for `request`."""
        ref = request.output
        with self.store.attempt(ref) as attempt:
            out = attempt.out
            out.mkdir()
            summary = _fill(request, out, seed)
            manifest = Manifest(
                schema_version=1,
                kind=ref.kind,
                fingerprint=ref.fingerprint,
                stage=request.stage,
                params=request.params,
                made_from=request.inputs,
                made_by=MadeBy(revision="c0ffee" * 6, is_dirty=False, versions={}, host="here"),
                files={},
                summary=summary,
                wall_s=1.5,
                cpu_s=1.2,
                created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).isoformat(),
            )
            artifact = self.store.save(ref, manifest, attempt)
        self.made.append((index, request, artifact))
        return artifact


def make_campaign(root: Path, params: Params, num_rounds: int = 2) -> CampaignOnDisk:
    """A campaign under `root` (store/ and runs/demo/), its final evaluation included."""
    campaign = CampaignOnDisk(root, params, Store(root / "store"))
    save = campaign.save
    prompt_set = save(None, requests.prompts(params)).ref
    held_out = save(None, requests.harvest_held_out(params, prompt_set)).ref
    base = save(None, requests.warmstart(params, prompt_set)).ref
    student, previous = base, None
    for index in range(num_rounds):
        clips = save(index, requests.harvest_round(params, prompt_set, index), index).ref
        rollouts = save(index, requests.rollout(params, prompt_set, student, index), index).ref
        judge = save(index, requests.fit(params, [clips], [rollouts], previous, index), index).ref
        update = requests.update(params, [clips], rollouts, judge, student, base, index)
        student = save(index, update, index).ref
        look = requests.evaluate_round(params, prompt_set, student, base)
        evaluation = save(index, look, index).ref
        previous = judge
        campaign.rounds.append(
            {
                "teacher_clips": clips,
                "rollouts": rollouts,
                "discriminator": judge,
                "student": student,
                "evaluation": evaluation,
            }
        )
    final = requests.evaluate_final(params, prompt_set, student, base, held_out)
    campaign.evaluation = save(None, final)
    return campaign


def _fill(request: StageRequest, out: Path, seed: int) -> dict[str, float | int | str | None]:
    draw = numpy_generator(seed, request.stage)
    match request.stage:
        case "prompts":
            rows = [
                {"text": text, "split": "train" if i else "held_out"}
                for i, text in enumerate(SENTENCES)
            ]
            (out / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
            return {"num_prompts": 3, "num_held_out": 1}
        case "harvest" | "rollout":
            clips = draw.integers(0, 255, (4, 16, 3, 16, 16), dtype=np.uint8)
            save_file({"clips": clips}, out / "clips.safetensors")
            _film(out / "samples.mp4", clips[0])
            if request.params.get("split") == "held_out":
                write_shard(out, _answers())
            return {f"num_{'clips' if request.stage == 'harvest' else 'rollouts'}": 4}
        case "fit":
            save_file({"w": draw.normal(size=(8, 8))}, out / "weights.safetensors")
            ends = {"fit/loss": 0.7, "fit/mismatch_pair_accuracy": 0.6 + 0.02 * seed}
            _curve(out, ends | {"fit/pair_accuracy": 0.9})
            after = {"pair_accuracy": 0.7 + 0.02 * seed, "margin": 0.4, "group_spread": 0.5}
            after |= {"calibration_error": 0.1}
            before = {f"{name}_before": value / 2 for name, value in after.items()}
            return after | before | {"anchor_pair_accuracy": 0.9, "leak_accuracy": 1.0}
        case "warmstart" | "update":
            save_file({"w": draw.normal(size=(64, 64))}, out / "weights.safetensors")
            _curve(out, {f"{request.stage}/loss": 0.5})
            return {
                "loss": 0.4,
                "mean_score": -0.2 + 0.1 * seed,
                "group_spread": 0.5,
                "zero_spread_share": 0.0,
                "mean_abs_2w_minus_1": 0.32,
                "effective_share": 0.8,
                "rank_correlation": 0.4,
                "static_share": 0.0,
                "duplicate_share": 0.0,
                "distance_to_behaviour": 0.01,
                "distance_to_reference": 0.02 * (seed + 1),
            }
        case "evaluate":
            return _evaluation(request, out, seed, draw)
        case "report":
            raise AssertionError("the report stage is run for real")


def _evaluation(
    request: StageRequest, out: Path, seed: int, draw: np.random.Generator
) -> dict[str, float | int | str | None]:
    (out / "filmstrips").mkdir()
    for index in range(3):
        strip = draw.integers(0, 255, (3 * 16, 8 * 16, 3), dtype=np.uint8)
        Image.fromarray(strip).resize((8 * 64, 3 * 64), Image.Resampling.NEAREST).save(
            out / "filmstrips" / f"{index}.png"
        )
    Image.fromarray(draw.integers(0, 255, (48, 128, 3), dtype=np.uint8)).save(out / "sheet.png")
    names = ["teacher", "base", "student"] if "teacher_clips" in request.inputs else SIDES
    films = [np.concatenate([_ball(prompt, name, seed) for prompt in range(3)]) for name in names]
    (out / "samples.mp4").write_bytes(side_by_side(films, fps=8))
    card = {
        "prompt_set": request.inputs["prompt_set"].fingerprint,
        "num_prompts": 8,
        "noise_seeds": [11, 12],
        "num_frames": 16,
        "fps": 8,
        "frame_size": 16,
        "metric_version": 1,
    }
    (out / "card.json").write_text(json.dumps(card))
    metrics = {
        name: {
            "teacher": teacher,
            "base": base,
            "student": student,
            "difference": student - base,
            "interval": [student - base - 0.1, student - base + 0.1],
        }
        for name, (teacher, base, student) in METRICS.items()
    }
    summary: dict[str, Any] = {"metrics": metrics, "num_prompts": 8, "noise_seeds": [11, 12]}
    summary |= {"frechet_margin": 3.0, "filmstrip_prompts": list(SENTENCES)}
    if asked := evaluate_external.evaluators_of(request.params):
        summary["outside"] = {
            one.name: evaluate_external.describe(one, _answer(one), 24) for one in asked
        }
    (out / "summary.json").write_text(json.dumps(summary))
    pd.DataFrame({"prompt": SENTENCES, "gravity": draw.normal(size=3)}).to_parquet(
        out / "per_prompt.parquet"
    )
    return {n: base + (s - base) * (seed + 1) / 3 for n, (_, base, s) in METRICS.items()}


def _ball(prompt: int, name: str, seed: int) -> np.ndarray[Any, Any]:
    """16 frames uint8 [16, 3, 16, 16] of a ball that falls; the student's lower round by round."""
    frames = np.full((16, 3, 16, 16), 20, np.uint8)
    speed = {"base": 0.2, "student": 0.2 + 0.2 * seed, "teacher": 0.9}[name]
    for at in range(16):
        top = min(12, round(at * speed))
        frames[at, prompt, top : top + 4, 6:10] = 230
    return frames


def _answers() -> list[dict[str, Any]]:
    """The teacher's clips of the held-out prompts, four times as large as a student's."""
    films = [_ball(prompt, "teacher", 0).repeat(4, 2).repeat(4, 3) for prompt in range(3)]
    return [
        {
            "prompt_id": f"p{number}",
            "prompt": text,
            "seed": 0,
            "bytes": encode(films[number].transpose(0, 2, 3, 1), 16),
        }
        for number, text in enumerate(SENTENCES)
    ]


def _answer(evaluator: OutsideEvaluator) -> Answer:
    """Three videos have no usable value; what is called "crash" has said nothing at all."""
    names = [metric.name for metric in evaluator.metrics]
    crashed = evaluator.name == "crash"
    return Answer(
        scores={name: {} for name in names},
        num_failed=dict.fromkeys(names, 24 if crashed else 3),
        version=None if crashed else "told 1",
        error="crash: exit code 1" if crashed else None,
        remarks=None if crashed else "motion: 3 of 24 videos are null",
        wall_s=1.0,
    )


def _curve(out: Path, ends: dict[str, float]) -> None:
    rows = [{"step": i, **{k: v * (1 + 1 / (i + 1)) for k, v in ends.items()}} for i in range(5)]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _film(path: Path, frames: np.ndarray[Any, Any]) -> None:
    """The film a campaign leaves, of uint8 frames [F, 3, H, W], made by the project itself."""
    path.write_bytes(side_by_side([frames.astype(np.float32) / 255], fps=8))
