"""Findings of the ablations as tables, from their results alone.

Longer clips, the rollouts that an arm needs, the score on a long schedule, and the best arm of each
world. docs/ablations.md has the conclusions, written by hand.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from afd.evaluation.comparison import CardError, Difference, compare
from afd.evaluation.metric_specs import FRECHET_DISTANCE, OBJECT_PERMANENCE, TRAJECTORY_ERROR
from afd.evaluation.readings import show
from afd.evaluation.results import AGAINST, DONE, LONG, CellResult, arms, base_cells

ERROR, PERMANENCE, LOOK = TRAJECTORY_ERROR, OBJECT_PERMANENCE, FRECHET_DISTANCE
TARGETS_PX = (2.25, 2.0, 1.75, 1.5, 1.25, 1.0)
RIVALS = ("afd_tuned", "sft", "gan", "reverse_chain", "dmd")
HACKED = 1.1  # times its own least error, at the end, while the score has not fallen
LEAST_PERMANENCE = 0.95  # of the base's own
LOOK_FACTOR = 1.5  # between two distances from the base's look: below, no arm has an advantage


def horizon(cells: Sequence[CellResult]) -> list[str]:
    """Return the trajectory error by block on longer clips, means over training seeds."""
    found = {a: [c for c in g if c.horizon] for (w, a), g in arms(cells).items() if w is None}
    found = {arm: group for arm, group in found.items() if group}
    if not found:
        return []
    first = base_cells((cell for group in found.values() for cell in group), None)
    rows = {"base": [_drift(cell, "base", ERROR) for cell in first]}
    rows |= {arm: [_drift(cell, "student", ERROR) for cell in g] for arm, g in found.items()}
    num_blocks = len(rows["base"][0])
    base = {n: [cell.horizon["base"].get(n) for cell in first] for n in (ERROR, PERMANENCE)}
    lines = [
        "| arm | " + " | ".join(f"block {n + 1}" for n in range(num_blocks))
        + " | whole clip | permanence | as trained |",
        "|---|" + "---|" * (num_blocks + 3),
    ]  # fmt: skip
    for arm, drifts in rows.items():
        group = found.get(arm, [])
        levels = {n: [c.horizon["student"].get(n) for c in group] or base[n] for n in base}
        short = [c.student.get(PERMANENCE) for c in group] or [
            c.base.get(PERMANENCE) for c in first
        ]
        texts_of_arm = [show(mean(column)) for column in zip(*drifts, strict=True)]
        texts_of_arm += [
            show(mean(levels[ERROR])),
            show(mean(levels[PERMANENCE])),
            show(mean(short)),
        ]
        lines.append(f"| {arm} | " + " | ".join(texts_of_arm) + " |")
    return lines


def rollouts_needed(curve: pd.DataFrame, target: float) -> float | None:
    """Return the rollouts until the trajectory error first reaches `target`, px; None: never.

    Linear between rounds. `curve` has a row a round, the base (no rollouts) first.
    """
    known = curve[["num_rollouts", ERROR]].dropna()
    before: tuple[float, float] | None = None
    for rollouts, error in known.itertuples(index=False):
        if error <= target:
            if before is None or before[1] == error:
                return float(rollouts)
            share = (before[1] - target) / (before[1] - error)
            return float(before[0] + share * (rollouts - before[0]))
        before = (float(rollouts), float(error))
    return None


def efficiency(cells: Sequence[CellResult], folder: Path) -> list[str]:
    """Return the rollouts that each main arm needs for an error: the range over its seeds."""
    lines = [
        "| arm | " + " | ".join(f"{target:g} px" for target in TARGETS_PX) + " |",
        "|---|" + "---|" * len(TARGETS_PX),
    ]
    for (world, arm), group in arms(cells).items():
        done = [c for c in group if c.status == DONE and c.horizon]
        curves = [curve for c in done if (curve := _curve(folder, c)) is not None]
        if world is not None or not any((curve["num_rollouts"] > 0).any() for curve in curves):
            continue
        needed = [_needed([rollouts_needed(c, target) for c in curves]) for target in TARGETS_PX]
        lines.append(f"| {arm} | " + " | ".join(needed) + " |")
    return lines if len(lines) > 2 else []


def long_schedule(cells: Sequence[CellResult], folder: Path) -> list[str]:
    """Return score against error on the long schedule; both rising is reward hacking."""
    lines: list[str] = []
    for (_, arm), group in arms(cells).items():
        for cell in group:
            curve = _curve(folder, cell) if arm.endswith(LONG) else None
            if curve is None or cell.status != DONE:
                continue
            known = curve.dropna(subset=["mean_score", ERROR])
            best = known.loc[known[ERROR].idxmin()]
            last = known.iloc[-1]
            rank = cast(Any, known["mean_score"]).corr(known[ERROR], method="spearman")
            worse = float(last[ERROR]) > HACKED * float(best[ERROR])
            hacked = worse and float(last["mean_score"]) >= float(best["mean_score"])
            verdict = "hacked" if hacked else ("worse, score too" if worse else "not hacked")
            lines.append(
                f"| {arm} | {cell.seed} | {show(float(best[ERROR]))} (round {best['round']:.0f}) | "
                f"{show(float(last[ERROR]))} | {show(float(best[PERMANENCE]))} to "
                f"{show(float(last[PERMANENCE]))} | {show(float(best['mean_score']))} to "
                f"{show(float(last['mean_score']))} | {show(float(rank))} | {verdict} |"
            )
    if not lines:
        return []
    head = [
        "| arm | seed | least error, px | last error, px | permanence, then to last | "
        "score, then to last | rank correlation of score and error | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return head + lines


def best_by_world(cells: Sequence[CellResult], rivals: Sequence[str] = RIVALS) -> list[str]:
    """Return a row for each world and rival: its difference to AFD, and its other metrics."""
    by_arm = arms(cells)
    lines = [
        "| world | arm | seeds | trajectory error | minus AFD's | permanence | look's distance | "
        "verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for world in dict.fromkeys(world for world, _ in by_arm):
        ours = {c.seed: c for c in by_arm.get((world, AGAINST), []) if c.status == DONE}
        if not ours:
            continue
        lines.append(_level(world, AGAINST, list(ours.values()), "\u2013", ""))
        for arm in rivals:
            theirs = [c for c in by_arm.get((world, arm), []) if c.status == DONE]
            theirs = [c for c in theirs if c.seed in ours]
            if not theirs:
                continue
            mine = [ours[c.seed] for c in theirs]
            try:
                rows = compare([c.evaluation for c in mine], [c.evaluation for c in theirs])
            except CardError:
                lines.append(_level(world, arm, theirs, "not comparable: other cards", ""))
                continue
            row = next(row for row in rows if row.metric == ERROR)
            verdict = _verdict(arm, row, mine, theirs)
            lines.append(_level(world, arm, theirs, str(row), verdict))
    return lines if len(lines) > 2 else []


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the finite values; None where there is none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _verdict(
    arm: str, row: Difference, ours: Sequence[CellResult], theirs: Sequence[CellResult]
) -> str:
    """Return the arm that moves better beyond chance, that loses balls, that keeps the look."""
    verdict = ["no clear difference in motion"]
    if row.is_clear and row.paired.mean is not None:
        verdict = [f"{arm if row.paired.mean < 0 else AGAINST} moves better"]
    groups = {AGAINST: ours, arm: theirs}
    for name, group in groups.items():
        base = mean([c.base.get(PERMANENCE) for c in group]) or 0.0
        if (mean([c.student.get(PERMANENCE) for c in group]) or 0.0) < LEAST_PERMANENCE * base:
            verdict.append(f"{name} loses balls")
    looks = {name: mean([c.student.get(LOOK) for c in group]) for name, group in groups.items()}
    known = sorted((value, name) for name, value in looks.items() if value is not None)
    if len(known) == 2 and known[1][0] > LOOK_FACTOR * known[0][0]:
        verdict.append(f"{known[0][1]} keeps the look")
    return "; ".join(verdict)


def _level(
    world: str | None, arm: str, group: Sequence[CellResult], against: str, verdict: str
) -> str:
    levels = [show(mean([c.student.get(n) for c in group])) for n in (ERROR, PERMANENCE, LOOK)]
    place = "pocket" if world is None else world.replace("_", " ")
    cells = [place, arm, ", ".join(str(c.seed) for c in group), levels[0], against, *levels[1:]]
    return f"| {' | '.join([*cells, verdict])} |"


def _needed(found: Sequence[float | None]) -> str:
    there = [value for value in found if value is not None]
    if not there:
        return "not reached"
    low, high = f"{min(there):,.0f}", f"{max(there):,.0f}"
    verdict = low if low == high else f"{low} to {high}"
    return (
        verdict if len(there) == len(found) else f"{verdict} ({len(there)} of {len(found)} seeds)"
    )


def _drift(cell: CellResult, side: str, name: str) -> list[float | None]:
    drift: Mapping[str, Mapping[str, list[float | None]]] = cell.horizon["drift"]
    return drift[side][name]


def _curve(folder: Path, cell: CellResult) -> pd.DataFrame | None:
    file = folder / f"{cell.name}.csv"
    return pd.read_csv(file) if file.exists() else None
