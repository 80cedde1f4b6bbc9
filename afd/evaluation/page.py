"""Report of a campaign as one self-contained HTML page without script or request."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from afd.evaluation import figures, readings
from afd.evaluation.alarm_policy import AlarmState
from afd.evaluation.figures import Curve
from afd.evaluation.metric_specs import GRAVITY, TRAJECTORY_ERROR, metric_spec, spec_in_report
from afd.evaluation.readings import Row
from afd.evaluation.targets import Target

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Filmstrip:
    """A picture with the rows teacher, base, student, and its prompt or an empty text."""

    picture: bytes
    prompt: str


@dataclass(frozen=True)
class Report:
    """Content of the page."""

    title: str
    lead: str
    rows: Sequence[Row]
    targets: Sequence[Target]
    curves: Sequence[Curve]
    health: Sequence[tuple[Curve, str]]  # and its description
    alarm_states: Sequence[AlarmState]  # after each round
    filmstrips: Sequence[Filmstrip]
    film: bytes | None  # mp4, teacher | base | student side by side
    rounds: Sequence[Mapping[str, str]]  # of each: role -> artifact
    spent: Sequence[tuple[str, int, float, float]]  # stage, count, wall s, CPU s
    settings: Sequence[tuple[str, str]]
    provenance: Sequence[tuple[str, str]]
    card: Sequence[tuple[str, str]] = field(default_factory=tuple)
    # category of prompts: wanted, clips, refused as input, as output
    refusals: Sequence[tuple[str, int, int, int, int]] = field(default_factory=tuple)


def render(report: Report) -> str:
    """Return the page; every value is escaped, every picture is a data URI."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "show": readings.show,
        "spec": spec_in_report,
        "read": readings.read,
        "svg": lambda curve: data_uri("image/svg+xml", figures.svg(curve)),
        "png": lambda content: data_uri("image/png", content),
        "mp4": lambda content: data_uri("video/mp4", content),
    }
    return environment.get_template(TEMPLATE).render(report=report)


def data_uri(media_type: str, content: bytes) -> str:
    """Return `content` as a data URI, so that the page needs no other file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def lead_sentence(rows: Sequence[Row], num_prompts: int, num_rounds: int) -> str:
    """Return the result in one sentence, with claims that the intervals support."""
    by_name = {row.name: row for row in rows}
    parts = [
        f"{metric_spec(name).title.lower()}: {readings.read(by_name[name])}"
        for name in (TRAJECTORY_ERROR, GRAVITY)
        if name in by_name
    ]
    changes = "; ".join(parts) or "see the table"
    rounds = "1 round" if num_rounds == 1 else f"{num_rounds} rounds"
    return f"On {num_prompts} held-out prompts, after {rounds}: {changes}."
