"""Evaluators outside, inside `evaluate`: clips become files, answers become columns.

One call an evaluator for all sides and noise seeds, since loading its weights is what takes long;
files are named by hash and shuffled by it, so nothing tells it who made which.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from afd.config import OutsideEvaluator
from afd.evaluation.outside import Answer, ask
from afd.fingerprint import fingerprint
from afd.prompts import Prompt
from afd.runtime.batches import Batch
from afd.stages.measuring import Film
from afd.store import write_json
from afd.video.encode import CRF

ENCODER = f"libx264 crf {CRF} yuv420p bt709"  # enters the card; evaluators see what it leaves


def asked_of(params: Mapping[str, Any]) -> list[OutsideEvaluator]:
    """The evaluators of this request."""
    values: list[dict[str, Any]] = params.get("evaluators", [])
    return [OutsideEvaluator.model_validate(value) for value in values]


def names(evaluators: Sequence[OutsideEvaluator]) -> list[str]:
    """Every metric they are asked for, as it is called in tables and summaries."""
    return [f"{one.name}.{metric.name}" for one in evaluators for metric in one.metrics]


def measure(
    evaluators: Sequence[OutsideEvaluator],
    by_film: Mapping[Film, Sequence[Batch]],
    prompts: Sequence[Prompt],
    fps: int,
    work: Path,
) -> tuple[dict[Film, dict[str, npt.NDArray[np.float64]]], dict[str, Any]]:
    """Ask everybody about every film: columns by film, and what the summary tells of each.

    Columns are `<evaluator>.<metric>`, a value a prompt, nan where there is none.
    """
    files_of = _write(by_film, prompts, fps, work / "videos")
    columns: dict[Film, dict[str, npt.NDArray[np.float64]]] = {film: {} for film in files_of}
    told: dict[str, Any] = {}
    for evaluator in evaluators:
        files = sorted(name for film in files_of.values() for name in film if name)
        answer = ask(evaluator, work / "videos", files, work)
        if answer.error:
            sys.stderr.write(f"warning: no metric is taken from this evaluator\n{answer.error}\n")
        told[evaluator.name] = describe(evaluator, answer, len(files))
        for metric in evaluator.metrics:
            scores = answer.scores[metric.name]
            for film, film_names in files_of.items():
                values = [np.nan if (v := scores.get(n)) is None else v for n in film_names]
                columns[film][f"{evaluator.name}.{metric.name}"] = np.array(values, np.float64)
    return columns, told


def _write(
    by_film: Mapping[Film, Sequence[Batch]], prompts: Sequence[Prompt], fps: int, folder: Path
) -> dict[Film, list[str]]:
    """Every film's clips as files, and what they are; "" for a clip that is none."""
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[Film, list[str]] = {}
    listed: list[dict[str, Any]] = []
    for film, batches in by_film.items():
        clips = {k: v for batch in batches for k, v in batch.items() if k.startswith("film/")}
        names[film] = []
        for row, prompt in enumerate(prompts):
            clip = clips.get(f"film/{row}")
            name = f"{fingerprint([film.side, film.noise_seed, prompt.id])[:24]}.mp4"
            names[film].append(name if clip is not None else "")
            if clip is not None:
                (folder / name).write_bytes(clip.numpy().tobytes())
                listed.append({"video": name, "prompt": prompt.text, "fps": fps})
    write_json(folder / "videos.json", sorted(listed, key=lambda entry: entry["video"]))
    return names


def describe(evaluator: OutsideEvaluator, answer: Answer, num_videos: int) -> dict[str, Any]:
    """What a reader must know of these numbers."""
    return {
        "version": evaluator.version,
        "version_told": answer.version,
        "error": answer.error,
        "num_videos": num_videos,
        "metrics": {
            metric.name: {
                "num_failed": answer.num_failed[metric.name],
                "goal": metric.goal,
                "independent": metric.independent,
            }
            for metric in evaluator.metrics
        },
    }


def about(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is said of each metric beside its numbers: goal, independence, failures."""
    return {
        f"{name}.{metric}": dict(said)
        for name, one in told.items()
        for metric, said in one["metrics"].items()
    }


def card(evaluators: Sequence[OutsideEvaluator], content: Mapping[str, str]) -> dict[str, Any]:
    """What two evaluations must share for these metrics to be comparable; nothing without any."""
    if not evaluators:
        return {}
    return {
        "encoder": ENCODER,
        "evaluators": {
            evaluator.name: {
                "version": evaluator.version,
                "weights": content.get(evaluator.name),
                "metrics": [metric.model_dump(mode="json") for metric in evaluator.metrics],
            }
            for evaluator in evaluators
        },
    }
