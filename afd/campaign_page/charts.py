"""Line charts as inline SVG: colours follow the page's scheme, 3 kB and under 1 ms each.

matplotlib takes 0.5 s to import and 60 ms a figure, and its colours cannot follow a scheme.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from afd.evaluation.readings import show

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 352, 12, 168
NEAR_PX = 13  # labels of two levels closer than that would touch

Points = Sequence[tuple[int, float]]
_Place = Callable[[float], float]  # a coordinate from a value


@dataclass(frozen=True)
class Chart:
    """One quantity against the round; `levels` are constants to compare with (teacher, base)."""

    title: str
    unit: str
    description: str
    points: Points
    levels: Mapping[str, float] = field(default_factory=dict[str, float])
    second: Points = ()  # the same quantity by another measurement, dashed
    legend: tuple[str, str] = ("", "")
    num_rounds: int = 0  # of the whole campaign: the axis does not move while it runs

    @property
    def caption(self) -> str:
        """The chart in words."""
        unit = f" {self.unit}" if self.unit else ""
        (first, start), (last, end) = self.points[0], self.points[-1]
        marks = "".join(f"; {name} {show(value)}" for name, value in self.levels.items())
        course = f"{show(start)}{unit} after round {first}"
        if last != first:
            course += f", {show(end)} after round {last}"
        return f"{self.title}: {course}{marks}"


def svg(chart: Chart) -> str:
    """Return the chart as an `svg` element with a label; `data-x` and `data-step` place a round."""
    rounds = [index for index, _ in (*chart.points, *chart.second)]
    values = [v for _, v in (*chart.points, *chart.second)] + list(chart.levels.values())
    marks = ticks(min(values), max(values))
    low, high = min(marks[0], *values), max(marks[-1], *values)
    first = min(rounds)
    last = max(*rounds, chart.num_rounds - 1, first + 1)
    step = (RIGHT - LEFT) / (last - first)

    def x(index: float) -> float:
        return round(LEFT + (index - first) * step, 1)

    def y(value: float) -> float:
        return round(BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP), 1)

    parts = [f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y(m)}" y2="{y(m)}"/>'
             f'<text x="{LEFT - 6}" y="{y(m) + 4}" text-anchor="end">{_mark(m, marks)}</text>'
             for m in marks]  # fmt: skip
    every = max(1, math.ceil((last - first) / 8))
    parts += [f'<text x="{x(n)}" y="{BOTTOM + 16}" text-anchor="middle">{n}</text>'
              for n in range(first, last + 1, every)]  # fmt: skip
    parts.append(f'<text x="{RIGHT}" y="{HEIGHT - 2}" text-anchor="end">round</text>')
    parts.append(f'<line class="at" x1="0" x2="0" y1="{TOP}" y2="{BOTTOM}"/>')
    parts += _levels(chart.levels, y)
    if chart.second:
        parts.append(_line("second", chart.second, x, y))
    parts.append(_line("student", chart.points, x, y))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.caption)}" '
        f'data-x="{x(0)}" data-step="{round(step, 2)}">{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that cover low to high."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-12):
        room = abs(low) / 2 or 0.5
        low, high = low - room, high + room
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(s * size for s in (1, 2, 2.5, 5, 10) if s * size >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def _levels(levels: Mapping[str, float], y: _Place) -> list[str]:
    """Dashed lines with their names at the right end, above the line and apart from each other."""
    parts: list[str] = []
    above: list[float] = []
    for name, value in levels.items():
        at = y(value)
        place = at - 4
        if place < TOP + 6 or any(abs(place - other) < NEAR_PX for other in above):
            place = at + 13
        above.append(place)
        parts.append(
            f'<line class="level {name}" x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}"/>'
            f'<text class="{name}" x="{RIGHT}" y="{place}" text-anchor="end">{escape(name)}</text>'
        )
    return parts


def _line(kind: str, points: Points, x: _Place, y: _Place) -> str:
    drawn = " ".join(f"{x(index)},{y(value)}" for index, value in points)
    dots = "".join(
        f'<circle class="{kind}" cx="{x(n)}" cy="{y(v)}" r="3">'
        f"<title>round {n}: {show(v)}</title></circle>"
        for n, v in points
    )
    return f'<polyline class="{kind}" points="{drawn}"/>{dots}'


def _mark(value: float, marks: Sequence[float]) -> str:
    """Digits enough to tell neighbours apart."""
    step = marks[1] - marks[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += round(step * 10**digits, 6) % 1 > 0  # 2.5, .25
    return f"{value + 0.0:.{digits}f}".replace("-", "\u2212") if digits < 6 else f"{value:.1e}"
