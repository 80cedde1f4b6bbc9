"""External evaluators of `evaluate`: clips become files, scores become columns.

One call of an evaluator covers all sides and noise seeds, because loading its weights takes long.
Files are named by hash and sorted by it, so no name reveals the side.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from afd.config import OutsideEvaluator
from afd.evaluation.external import Answer, run_evaluator
from afd.fingerprint import fingerprint
from afd.prompts import Prompt
from afd.runtime.batches import Batch
from afd.stages.evaluate_batches import Cell
from afd.store import write_json
from afd.video.encode import CRF

ENCODER = f"libx264 crf {CRF} yuv420p bt709"  # enters the card; evaluators read its files


def evaluators_of(params: Mapping[str, Any]) -> list[OutsideEvaluator]:
    """Return the evaluators of a request."""
    values: list[dict[str, Any]] = params.get("evaluators", [])
    return [OutsideEvaluator.model_validate(value) for value in values]


def names(evaluators: Sequence[OutsideEvaluator]) -> list[str]:
    """Return the metrics of all evaluators by their names in tables and summaries."""
    return [f"{one.name}.{metric.name}" for one in evaluators for metric in one.metrics]


def measure(
    evaluators: Sequence[OutsideEvaluator],
    by_cell: Mapping[Cell, Sequence[Batch]],
    prompts: Sequence[Prompt],
    fps: int,
    work: Path,
) -> tuple[dict[Cell, dict[str, npt.NDArray[np.float64]]], dict[str, Any]]:
    """Run every evaluator; return columns by cell, and each evaluator's part of the summary.

    Columns are `<evaluator>.<metric>`, a value for each prompt, nan where there is none.
    """
    columns: dict[Cell, dict[str, npt.NDArray[np.float64]]] = {cell: {} for cell in by_cell}
    external: dict[str, Any] = {}
    for evaluator in evaluators:
        # Written anew for each: none has what another one changed or left behind.
        with tempfile.TemporaryDirectory(
            prefix="videos-", dir=work, ignore_cleanup_errors=True
        ) as videos:
            files_of = _write(by_cell, prompts, fps, Path(videos))
            files = sorted(name for cell in files_of.values() for name in cell if name)
            answer = run_evaluator(evaluator, Path(videos), files, work)
        if answer.error:
            sys.stderr.write(f"warning: no metric is taken from this evaluator\n{answer.error}\n")
        elif answer.remarks:
            sys.stderr.write(f"warning: {evaluator.name}: {answer.remarks}\n")
        external[evaluator.name] = describe(evaluator, answer, len(files))
        for metric in evaluator.metrics:
            scores = answer.scores[metric.name]
            for cell, cell_names in files_of.items():
                values = [np.nan if (v := scores.get(n)) is None else v for n in cell_names]
                columns[cell][f"{evaluator.name}.{metric.name}"] = np.array(values, np.float64)
    return columns, external


def _write(
    by_cell: Mapping[Cell, Sequence[Batch]], prompts: Sequence[Prompt], fps: int, folder: Path
) -> dict[Cell, list[str]]:
    """Write every cell's clips as files; return their names, "" for a failed clip."""
    names: dict[Cell, list[str]] = {}
    listed: list[dict[str, Any]] = []
    for cell, batches in by_cell.items():
        clips = {k: v for batch in batches for k, v in batch.items() if k.startswith("film/")}
        names[cell] = []
        for row, prompt in enumerate(prompts):
            clip = clips.get(f"film/{row}")
            name = f"{fingerprint([cell.side, cell.noise_seed, prompt.id])[:24]}.mp4"
            names[cell].append(name if clip is not None else "")
            if clip is not None:
                (folder / name).write_bytes(clip.numpy().tobytes())
                listed.append({"video": name, "prompt": prompt.text, "fps": fps})
    write_json(folder / "videos.json", sorted(listed, key=lambda entry: entry["video"]))
    return names


def describe(evaluator: OutsideEvaluator, answer: Answer, num_videos: int) -> dict[str, Any]:
    """Return an evaluator's version, error and failures for the summary."""
    return {
        "version": evaluator.version,
        "version_told": answer.version,
        "error": answer.error,
        "remarks": answer.remarks,
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


def about_metrics(external: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return goal, independence and failures of each metric."""
    return {
        f"{name}.{metric}": dict(values)
        for name, one in external.items()
        for metric, values in one["metrics"].items()
    }


def card(evaluators: Sequence[OutsideEvaluator], content: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that comparable evaluations share; nothing without evaluators."""
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
