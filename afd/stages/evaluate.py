"""Stage `evaluate`: metrics of the student's clips on held-out prompts.

All sides get the same prompts and the same noise. With teacher clips among the inputs this is the
final evaluation, with intervals paired by prompt; without them the cheaper one after a round.
Sampling and measuring take the time and run in batches (runtime/parts.py).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from afd import seeds
from afd.artifacts import Artifact
from afd.clips.shards import read_table
from afd.device import give_back
from afd.evaluation.metrics import appearance, drift, general, pocket
from afd.evaluation.statistics import by_prompt, holm, mean_of, paired_difference
from afd.fingerprint import fingerprint
from afd.prompts import Prompt
from afd.runtime.batches import Batch
from afd.runtime.parts import num_batches
from afd.runtime.workspace import Workspace
from afd.stages import evaluate_external
from afd.stages.evaluate_batches import (
    LOOK_SEED,
    Cell,
    SideName,
    batches,
    cells_of,
    metric_names,
    of_pocket_world,
    prompts_of,
    spread,
)
from afd.store import Store, write_json
from afd.video.contact_sheets import filmstrips, side_by_side

ORDER: tuple[SideName, ...] = ("student", "base", "teacher")
FRECHET = "frechet_distance"
NUM_FRECHET_RESAMPLES = 999  # each costs two eigendecompositions: 1 s in all


class Side(NamedTuple):
    """Measurements of one side."""

    filmstrip_clips: list[npt.NDArray[np.uint8]]  # of the filmstrip prompts, first noise seed
    table: pd.DataFrame  # a row for each prompt and noise seed
    num_failed: int
    features: list[npt.NDArray[np.float64]]  # an array for each noise seed


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Write summary.json, per_prompt.parquet, card.json, filmstrips/, sheet.png, samples.mp4."""
    chosen, seed = prompts_of(params, inputs), int(params["seed"])
    made = work.batches(num_batches("evaluate", params, inputs), batches(params, inputs, store))
    cells = cells_of(params, inputs)
    by_cell = dict(zip(cells, batches_by_cell(made, len(cells)), strict=True))
    present = dict(cells)
    sides: dict[SideName, Side] = {
        name: side_of(name, by_cell, chosen) for name in ORDER if name in present
    }
    own_look = joined(by_cell[Cell("own_look", LOOK_SEED)], "features")
    evaluators = evaluate_external.evaluators_of(params)
    external: dict[str, Any] = {}
    if evaluators:
        give_back()
        cells_of_sides = {cell: made for cell, made in by_cell.items() if cell.side in sides}
        columns, external = evaluate_external.measure(
            evaluators, cells_of_sides, chosen, params["fps"], work.path
        )
        sides = {
            name: side._replace(table=joined_with(side.table, name, columns))
            for name, side in sides.items()
        }
    names = [*metric_names(params, chosen), *evaluate_external.names(evaluators)]
    measured = {name: compare(name, sides, params, seed) for name in names}
    for name, values in evaluate_external.about_metrics(external).items():
        measured[name] |= values
    measured[FRECHET] = compare_look(sides, own_look, seed, params["confidence"])
    adjusted = holm({name: row.pop("p_value") for name, row in measured.items()})
    for name, row in measured.items():
        row["p_holm"] = adjusted[name]

    filmstrip_prompts = [chosen[index] for index in spread(chosen, int(params["num_filmstrips"]))]
    leave_pictures(work, sides, filmstrip_prompts, params["fps"])
    summary = {
        "metrics": measured,
        "num_prompts": len(chosen),
        "noise_seeds": [int(value) for value in params["noise_seeds"]],
        "num_failed": {name: side.num_failed for name, side in sides.items()},
        "confidence": params["confidence"],
        "frechet_margin": params["frechet_margin"],
        "filmstrip_prompts": [prompt.text for prompt in filmstrip_prompts],
    } | ({"outside": external} if external else {})
    if params.get("horizon"):
        summary |= {"drift": drift_of(by_cell), "horizon": params["horizon"]}
    write_json(work.out / "summary.json", summary)
    write_json(work.out / "card.json", card(params, chosen, inputs))
    tables = [side.table.assign(side=name) for name, side in sides.items()]
    pd.concat(tables).to_parquet(work.out / "per_prompt.parquet", index=False)
    means = {name: row["student"] for name, row in measured.items()}
    return means | {"num_prompts": len(chosen), "num_failed": sides["student"].num_failed}


def batches_by_cell(made: Sequence[Batch], num_cells: int) -> list[Sequence[Batch]]:
    """Return the batches of each cell."""
    size = len(made) // num_cells
    return [made[start : start + size] for start in range(0, len(made), size)]


def joined(cell: Sequence[Batch], name: str) -> npt.NDArray[Any]:
    """Return one quantity of a cell, a row for each prompt."""
    return torch.cat([batch[name] for batch in cell]).numpy()


def side_of(name: SideName, by_cell: dict[Cell, Sequence[Batch]], prompts: list[Prompt]) -> Side:
    """Return every metric of every clip of a side; a failed clip has a row without values."""
    cells = {cell.noise_seed: made for cell, made in by_cell.items() if cell.side == name}
    tables: list[pd.DataFrame] = []
    for noise_seed, made in cells.items():
        measured = [n for n in (*pocket.NAMES, *general.NAMES) if f"metric/{n}" in made[0]]
        table = pd.DataFrame({name: joined(made, f"metric/{name}") for name in measured})
        table.insert(0, "prompt_id", [prompt.id for prompt in prompts])
        table.insert(1, "prompt", [prompt.text for prompt in prompts])
        table.insert(2, "noise_seed", noise_seed)
        tables.append(table.assign(failed=joined(made, "failed")))
    table = pd.concat(tables, ignore_index=True)
    first = next(iter(cells.values()))
    return Side(
        filmstrip_clips=list(joined(first, "shown")),
        table=table,
        num_failed=int(np.count_nonzero(table["failed"])),
        features=[joined(made, "features") for made in cells.values()],
    )


def drift_of(by_cell: dict[Cell, Sequence[Batch]]) -> dict[str, dict[str, list[float | None]]]:
    """Return student's and base's metrics by block, means over prompts and noise seeds."""
    by_side: dict[str, dict[str, list[float | None]]] = {}
    for side in ("student", "base"):
        cells = [made for cell, made in by_cell.items() if cell.side == side]
        measured = [name for name in drift.NAMES if f"drift/{name}" in cells[0][0]]
        for name in measured:  # in one order, for every process and every cache
            values = np.concatenate([joined(made, f"drift/{name}") for made in cells])
            known = np.isfinite(values).any(axis=0)
            means = np.nanmean(values[:, known], axis=0)
            rows: list[float | None] = [None] * values.shape[1]
            for place, mean in zip(np.flatnonzero(known), means, strict=True):
                rows[place] = float(mean)
            by_side.setdefault(side, {})[name] = rows
    return by_side


def joined_with(
    table: pd.DataFrame, side: SideName, columns: dict[Cell, dict[str, npt.NDArray[np.float64]]]
) -> pd.DataFrame:
    """Join a side's table and external columns, noise seeds one below the other."""
    own = [pd.DataFrame(values) for cell, values in columns.items() if cell.side == side]
    return pd.concat([table, pd.concat(own, ignore_index=True)], axis=1)


def compare(
    name: str, sides: dict[SideName, Side], params: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Compare the sides in one metric: student minus base by prompt, mean over noise seeds."""
    values = {
        side: by_prompt(of.table["prompt_id"].tolist(), of.table[name].to_numpy(float))
        for side, of in sides.items()
    }
    resamples = (seeds.derive(seed, name), params["num_resamples"], params["confidence"])
    paired = paired_difference(values["student"], values["base"], *resamples)
    means = {side: mean_of(of) for side, of in values.items()}
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
    sides: dict[SideName, Side], own_look: npt.NDArray[np.float64], seed: int, confidence: float
) -> dict[str, Any]:
    """Compare Frechet distances to the base's own look at one n; interval over prompts."""
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
    distance = appearance.frechet_distance(features, own_look).distance
    return math.nan if distance is None else distance


def leave_pictures(
    work: Workspace, sides: dict[SideName, Side], prompts: list[Prompt], fps: int
) -> None:
    """Write a filmstrip for each prompt, a film of all sides, a sheet of the student."""
    beside: tuple[SideName, ...] = ("teacher", "base", "student")
    order: list[SideName] = [name for name in beside if name in sides]
    (work.out / "filmstrips").mkdir()
    for number in range(len(prompts)):
        clips = [sides[name].filmstrip_clips[number] for name in order]
        (work.out / "filmstrips" / f"{number}.png").write_bytes(filmstrips(clips, order))
    films = [np.concatenate(sides[name].filmstrip_clips) for name in order]
    (work.out / "samples.mp4").write_bytes(side_by_side(films, fps))
    labels = [prompt.text for prompt in prompts]
    (work.out / "sheet.png").write_bytes(filmstrips(sides["student"].filmstrip_clips, labels))


def _content(clips: Artifact) -> str:
    """Name clips by content: campaigns of other training seeds harvest them in another order."""
    table = read_table(clips.path)
    entries = sorted(map(list, zip(table["prompt_id"], table["sha256"], strict=True)))
    return fingerprint(entries)[:16]


def card(
    params: dict[str, Any], prompts: list[Prompt], inputs: dict[str, Artifact]
) -> dict[str, Any]:
    """Return the values that comparable evaluations share; no value of the student itself."""
    teacher, is_pocket = inputs.get("teacher_clips"), of_pocket_world(params, prompts)
    return {
        "prompts": fingerprint(sorted(prompt.id for prompt in prompts))[:16],
        "split": params["split"],
        "num_prompts": len(prompts),
        "noise_seeds": [int(value) for value in params["noise_seeds"]],
        "num_frames": params["num_frames"],
        "frame_size": params["frame_size"],
        "fps": params["fps"],
        "laws": params["laws"] if is_pocket else None,
        "metrics_version": pocket.VERSION if is_pocket else f"general {general.VERSION}",
        "look_version": appearance.VERSION,
        "teacher_clips": _content(teacher) if teacher else None,
        "num_resamples": params["num_resamples"],
        "confidence": params["confidence"],
        "frechet_margin": params["frechet_margin"],
        **{name: params[name] for name in ("guidance", "horizon") if name in params},
        **evaluate_external.card(
            evaluate_external.evaluators_of(params), params.get("evaluator_weights", {})
        ),
    }
