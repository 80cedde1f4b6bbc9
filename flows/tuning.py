"""The same tuning effort for every arm: runs on the tuning split, and which settings won.

First some learning rates of params/tuning.yaml, then at the best one what the arm has of its own.
Runs are campaigns like any other: what was played before is found in the store.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from afd.config import Count, Frozen, Listed, Positive, Share
from afd.evaluation.metric_specs import (
    GRAVITY,
    INTERPENETRATION,
    OBJECT_PERMANENCE,
    TRAJECTORY_ERROR,
)
from afd.params import ParamsError, validate
from afd.store import Store, write_atomic
from afd.yaml_files import UnreadableYamlError, read_yaml
from flows.ablations import Cell, final_evaluation, is_finished, played
from flows.paths import CampaignPaths

TUNING = Path("params") / "tuning.yaml"
SPLIT = "tuning"  # params/ablations/tuning.yaml
ERROR, PERMANENCE = TRAJECTORY_ERROR, OBJECT_PERMANENCE
METRICS = (ERROR, PERMANENCE, GRAVITY, INTERPENETRATION, "sharpness")


class TuningPlan(Frozen):
    """params/tuning.yaml: `own` and `given` are settings by arm."""

    seed: Count
    least_permanence: Share
    learning_rates: Listed[tuple[Positive, ...]]
    first: Positive
    num_rates: Count
    own: dict[str, str]
    given: dict[str, str]


def tune(
    paths: CampaignPaths, cluster: Path, jobs: int, arms: Sequence[str] = (), *, play: bool = True
) -> pd.DataFrame:
    """Return a row a run, `chosen` where it won its arm; raises ParamsError.

    Arms are tuned side by side, `jobs` campaigns at a time. Without `play` nothing is computed: an
    arm's rows end where its runs do.
    """
    try:
        values = read_yaml(TUNING)
    except FileNotFoundError:
        raise ParamsError(str(TUNING), ["there is no such file: type this in a clone"]) from None
    except UnreadableYamlError as error:
        raise ParamsError(str(TUNING), [str(error)]) from None
    plan = validate(TuningPlan, values, str(TUNING))
    if unknown := sorted(set(arms) - set(plan.own)):
        known = ", ".join(plan.own)
        raise ParamsError(str(TUNING), [f"own: {', '.join(unknown)} not there; known: {known}"])
    chosen = [arm for arm in plan.own if not arms or arm in arms]
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in chosen}
    for turn in range(plan.num_rates + 1):
        wave = {arm: _next(plan, arm, runs[arm], turn) for arm in chosen}
        cells = [cell for cell in wave.values() if cell is not None]
        unfinished = [cell for cell in cells if not is_finished(cell, paths)]
        if play:
            (paths.runs / ".ablations").mkdir(parents=True, exist_ok=True)
            for _ in played(unfinished, paths, cluster, jobs):
                pass
        else:
            chosen = [arm for arm in chosen if wave[arm] not in unfinished]
            cells = [cell for cell in cells if cell not in unfinished]
        for cell in cells:
            runs[cell.arm].append(_row(cell, Store(paths.store), paths))
    for found in runs.values():
        best = _best(found, plan.least_permanence)
        for row in found:
            row["chosen"] = row is best
    return pd.DataFrame([row for found in runs.values() for row in found])


def save(table: pd.DataFrame, file: Path) -> None:
    """As CSV, four digits; rows of arms that `table` does not have stay as they are."""
    if table.empty:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    text = table.to_csv(index=False, float_format="%.4g")
    if file.exists():
        before = pd.read_csv(file, dtype=str, keep_default_na=False)
        others = before[~before["arm"].isin(table["arm"].unique().tolist())]
        now = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        text = pd.concat([others, now]).to_csv(index=False)
    write_atomic(file, text.encode())


def _next(plan: TuningPlan, arm: str, found: Sequence[Mapping[str, Any]], turn: int) -> Cell | None:
    """Return the arm's next run; None after a failed one."""
    given = plan.given.get(arm)
    rates = sorted(plan.learning_rates)
    if turn < plan.num_rates:
        rate = next_rate(rates, plan.first, found, plan.least_permanence)
        own = [given] if given else []
    else:
        best = _best(found, plan.least_permanence)
        rate = None if best is None else float(best["learning_rate"])
        field = plan.own[arm].split("=")[0]
        own = [*([given] if given and given.split("=")[0] != field else []), plan.own[arm]]
    if rate is None:
        return None
    high, low = f"update.learning_rate.high={rate:g}", f"update.learning_rate.low={rate / 2:g}"
    return Cell(arm, plan.seed, SPLIT, settings=(high, low, *own))


def next_rate(
    rates: Sequence[float], first: float, found: Sequence[Mapping[str, Any]], permanence: float
) -> float | None:
    """`first`, then the next higher one, then the one beyond the better end of those tried."""
    tried = sorted(float(row["learning_rate"]) for row in found)
    if not tried:
        return first
    above = [rate for rate in rates if rate > tried[-1]]
    below = [rate for rate in rates if rate < tried[0]]
    best = _best(found, permanence)
    if len(tried) == 1 and above:
        return above[0]
    upward = best is not None and float(best["learning_rate"]) == tried[-1]
    ends = [*above[:1], *below[-1:]] if upward else [*below[-1:], *above[:1]]
    return ends[0] if ends else None


def _row(cell: Cell, store: Store, paths: CampaignPaths) -> dict[str, Any]:
    params = cell.params()
    own = [setting for setting in cell.settings if "learning_rate" not in setting]
    row: dict[str, Any] = {
        "arm": cell.arm,
        "learning_rate": params.update.learning_rate.high,
        "own": " ".join(own),
        **dict.fromkeys(METRICS),
        "cpu_s": None,
    }
    evaluation = final_evaluation(params, store)
    left = paths.runs / cell.campaign / "summary.json"
    if evaluation is None or not store.have(evaluation) or not left.exists():
        return row
    summary = json.loads(store.load(evaluation).file("summary.json").read_bytes())
    row |= {name: summary["metrics"][name]["student"] for name in METRICS}
    stages: dict[str, dict[str, float]] = json.loads(left.read_bytes())["stages"]
    row["cpu_s"] = sum(spent["cpu_s"] for name, spent in stages.items() if name != "warmstart")
    return row


def _best(found: Sequence[Mapping[str, Any]], permanence: float) -> Mapping[str, Any] | None:
    """Return the run of least trajectory error among those that keep permanence, else of all."""
    done = [row for row in found if row[ERROR] is not None]
    candidates = [row for row in done if row[PERMANENCE] >= permanence] or done
    return min(candidates, key=lambda row: float(row[ERROR]), default=None)
