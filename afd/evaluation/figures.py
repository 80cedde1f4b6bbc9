"""Figures of a campaign by matplotlib: SVG for a page in any colour scheme, else PNG.

Figures are functions of their input, to the byte.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#808080"  # legible on white and on black
STUDENT, TEACHER, BASE = "#2f7fd6", "#3a9d5d", "#d9822b"
LEVELS = {"teacher": TEACHER, "base": BASE}
STYLE: Any = {"svg.hashsalt": "afd", "font.size": 10, "axes.spines.top": False}


@dataclass(frozen=True)
class Curve:
    """One quantity against round; `levels` are constants to compare with (teacher, base)."""

    title: str
    unit: str
    points: Sequence[tuple[int, float]]
    levels: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def caption(self) -> str:
        """Text of the curve, for a screen reader."""
        unit = f" {self.unit}" if self.unit else ""
        (first, start), (last, end) = self.points[0], self.points[-1]
        marks = "".join(f"; {name} {value:.3g}" for name, value in self.levels.items())
        return f"{self.title}: {start:.3g}{unit} at round {first}, {end:.3g} at round {last}{marks}"


def svg(curve: Curve) -> bytes:
    """Draw one small figure, transparent, 340 x 210 px."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4, 2.1), dpi=100)
        figure.subplots_adjust(0.16, 0.21, 0.98, 0.88)
        _draw(figure.subplots(), curve)
        return as_bytes(figure, "svg", transparent=True)


def png(curves: Sequence[Curve], columns: int = 3) -> bytes:
    """Draw all curves as small multiples on white, 140 dpi."""
    with mpl.rc_context(STYLE):
        rows = max(1, -(-len(curves) // columns))
        figure = Figure(figsize=(3.6 * columns, 2.3 * rows), dpi=140)
        figure.subplots_adjust(0.055, 0.23 / rows, 0.99, 1 - 0.12 / rows, wspace=0.22, hspace=0.55)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, curve in zip(axes, curves, strict=False):
            _draw(axis, curve)
        for axis in axes[len(curves) :]:
            axis.set_axis_off()
        return as_bytes(figure, "png", transparent=False)


def _draw(axis: Axes, curve: Curve) -> None:
    for name, value in curve.levels.items():
        axis.axhline(value, color=LEVELS.get(name, INK), linewidth=1.2, linestyle="--")
        axis.annotate(
            name,
            (1.0, value),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color=LEVELS.get(name, INK),
        )
    rounds = [index for index, _ in curve.points]
    marker = "o" if len(rounds) < 3 else None
    axis.plot(
        rounds, [v for _, v in curve.points], color=STUDENT, linewidth=1.8, marker=marker, ms=4
    )
    axis.set_title(curve.title + (f" ({curve.unit})" if curve.unit else ""), color=INK, fontsize=10)
    axis.set_xlabel("round", color=INK, fontsize=9)
    axis.tick_params(colors=INK, labelsize=8)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.margins(y=0.15)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.grid(visible=True, color=INK, alpha=0.15)
    for spine in axis.spines.values():
        spine.set_color(INK)
    axis.spines["right"].set_visible(False)


def as_bytes(figure: Figure, kind: str, *, transparent: bool) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, transparent=transparent, metadata=metadata)
    return buffer.getvalue()
