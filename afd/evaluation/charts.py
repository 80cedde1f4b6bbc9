"""Charts of the ablations: training seeds of each arm as dots, and arms round by round."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from afd.evaluation.figures import BASE, INK, STUDENT, STYLE, as_bytes
from afd.evaluation.metric_specs import (
    INTERPENETRATION,
    OBJECT_PERMANENCE,
    TRAJECTORY_ERROR,
    metric_spec,
)
from afd.evaluation.results import AGAINST, DONE, FAILED, LONG, CellResult, arms, base_cells

DOTS = (TRAJECTORY_ERROR, OBJECT_PERMANENCE, INTERPENETRATION, "sharpness")
DRAWN = (TRAJECTORY_ERROR, OBJECT_PERMANENCE, "margin")
WANDERING = (TRAJECTORY_ERROR, OBJECT_PERMANENCE, "sharpness")
SCORED = ("mean_score", TRAJECTORY_ERROR, OBJECT_PERMANENCE)


def dots_chart(cells: Sequence[CellResult]) -> bytes:
    """Draw an arm a row, a training seed a dot, the base as a dashed line; return PNG."""
    by_arm = arms(cell for cell in cells if not cell.arm.endswith(LONG))
    labels = [f"{arm} ({world})" if world else arm for world, arm in by_arm]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 1.2 + 0.24 * len(labels)), dpi=110, layout="constrained")
        axes = figure.subplots(1, len(DOTS), sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, DOTS, strict=True):
            _dots(axis, list(by_arm.values()), name)
        axes[0].set_yticks(range(len(labels)), labels)
        axes[0].invert_yaxis()
        return as_bytes(figure, "png", transparent=False)


def curves_chart(cells: Sequence[CellResult], folder: Path) -> bytes:
    """Draw the first world's arms round by round, a line a training seed, AFD in front; PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 3.6), dpi=110, layout="constrained")
        axes = figure.subplots(1, len(DRAWN), squeeze=False)[0]
        for axis, name in zip(axes, DRAWN, strict=True):
            for number, ((world, arm), found) in enumerate(arms(cells).items()):
                if world is None and not arm.endswith(LONG):
                    _lines(axis, found, folder, name, arm, number)
            axis.set_title(metric_spec(name).title, loc="left")
            axis.set_xlabel("round")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False)
        return as_bytes(figure, "png", transparent=False)


def drift_chart(cells: Sequence[CellResult]) -> bytes:
    """Draw the main arms block by block on clips longer than the trained ones; return PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 3.6), dpi=110, layout="constrained")
        axes = figure.subplots(1, len(WANDERING), squeeze=False)[0]
        for axis, name in zip(axes, WANDERING, strict=True):
            for number, ((world, arm), found) in enumerate(arms(cells).items()):
                for nth, cell in enumerate(c for c in found if c.horizon and world is None):
                    drift = cell.horizon["drift"]["student"][name]
                    axis.plot(
                        range(1, len(drift) + 1), drift, color=f"C{number % 10}",
                        linewidth=2.4 if arm == AGAINST else 1.1, label=arm if nth == 0 else None,
                    )  # fmt: skip
            longer = [c.horizon for c in base_cells((c for c in cells if c.horizon), None)]
            bases = [one["drift"]["base"][name] for one in longer]
            trained = len(bases[0]) / longer[0]["horizon"]
            for nth, drift in enumerate(bases):
                axis.plot(
                    range(1, len(drift) + 1), drift, color=BASE, linestyle="--",
                    label="base" if nth == 0 else None,
                )  # fmt: skip
            axis.axvline(trained + 0.5, color=INK, linewidth=1, linestyle=":")
            axis.set_title(metric_spec(name).title, loc="left")
            axis.set_xlabel("block (trained up to the dotted line)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False)
        return as_bytes(figure, "png", transparent=False)


def long_chart(cells: Sequence[CellResult], folder: Path) -> bytes:
    """Draw score and independent metrics by round, on the long schedule; return PNG."""
    long = [cell for cell in cells if cell.arm.endswith(LONG) and cell.status == DONE]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 3.6), dpi=110, layout="constrained")
        axes = figure.subplots(1, len(SCORED), squeeze=False)[0]
        for axis, name in zip(axes, SCORED, strict=True):
            for number, cell in enumerate(long):
                drawn = pd.read_csv(folder / f"{cell.name}.csv")
                axis.plot(drawn["round"], drawn[name], color=f"C{number}", label=cell.arm)
            axis.set_title(metric_spec(name).title, loc="left")
            axis.set_xlabel("round")
        axes[0].legend(frameon=False)
        return as_bytes(figure, "png", transparent=False)


def _dots(axis: Axes, found: Sequence[Sequence[CellResult]], name: str) -> None:
    for row, group in enumerate(found):
        values = [v for cell in group if (v := cell.student.get(name)) is not None]
        if not values:
            note = "failed" if all(cell.status == FAILED for cell in group) else "not defined"
            axis.text(0.02, row, note, transform=axis.get_yaxis_transform(), va="center")
            continue
        axis.plot([min(values), max(values)], [row, row], color=STUDENT, alpha=0.4)
        axis.plot(values, [row] * len(values), "o", color=STUDENT, markersize=5)
    starts = base_cells((cell for group in found for cell in group), None)
    bases = [v for cell in starts if (v := cell.base.get(name)) is not None]
    if bases:
        axis.axvline(sum(bases) / len(bases), color=BASE, linestyle="--", linewidth=1)
    spec = metric_spec(name)
    axis.set_title(f"{spec.title}{f' ({spec.unit})' if spec.unit else ''}", loc="left")
    axis.grid(axis="y", alpha=0.2)


def _lines(
    axis: Axes, found: Sequence[CellResult], folder: Path, name: str, arm: str, number: int
) -> None:
    for nth, cell in enumerate(cell for cell in found if cell.status == DONE):
        drawn = pd.read_csv(folder / f"{cell.name}.csv")
        if name not in drawn or bool(drawn[name].isna().all()):
            continue
        front = arm == AGAINST
        axis.plot(
            drawn["round"], drawn[name], color=f"C{number % 10}", linewidth=2.4 if front else 1.1,
            linestyle="-" if number < 10 else ":", zorder=3 if front else 2,
            label=arm if nth == 0 else None,
        )  # fmt: skip
