"""Templates of the campaign pages, with the filters, style and script that they share."""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from afd.campaign_page import charts, numbers
from afd.evaluation import readings
from afd.evaluation.metric_specs import metric_spec


def environment() -> jinja2.Environment:
    """Templates of this folder, with the filters that they share."""
    folder = Path(__file__).parent
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "show": readings.show,
        "spec": metric_spec,
        "direction": numbers.direction,
        "read": readings.read,
        "svg": _svg,
        "day": _day,
    }
    shared: dict[str, Any] = {
        "style": _text(folder / "page.css"),
        "script": _text(folder / "page.js"),
    }
    made.filters.update(filters)
    made.globals.update(shared)
    return made


def _text(file: Path) -> Markup:
    return Markup(file.read_text(encoding="utf-8"))


def _svg(chart: charts.Chart) -> Markup:
    return Markup(charts.svg(chart))


def _day(text: str) -> str:
    """Return a time without its seconds and zone."""
    return text[:16]
