"""The report as one self-contained HTML page: no script, no request, readable on a phone."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from afd.evaluation import figures, readings
from afd.evaluation.course import Course
from afd.evaluation.figures import Curve
from afd.evaluation.readings import Row
from afd.evaluation.targets import Target

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Filmstrip:
    """A picture with the rows teacher, base, student; what was asked for, if it is known."""

    picture: bytes
    prompt: str


@dataclass(frozen=True)
class Report:
    """Everything on the page, as values."""

    title: str
    lead: str
    rows: Sequence[Row]
    targets: Sequence[Target]
    curves: Sequence[Curve]
    health: Sequence[tuple[Curve, str]]  # with what it means
    courses: Sequence[Course]  # after each round
    filmstrips: Sequence[Filmstrip]
    film: bytes | None  # mp4, teacher | base | student side by side
    rounds: Sequence[Mapping[str, str]]  # one a round: role -> what stands there
    spent: Sequence[tuple[str, int, float, float]]  # stage, count, wall s, CPU s
    settings: Sequence[tuple[str, str]]
    provenance: Sequence[tuple[str, str]]
    card: Sequence[tuple[str, str]] = field(default_factory=tuple)
    # category of prompts: wanted, clips, refused as input, as output
    refusals: Sequence[tuple[str, int, int, int, int]] = field(default_factory=tuple)


def render(report: Report) -> str:
    """The page; every value is escaped, every picture is a data URI."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "show": readings.show,
        "meaning": readings.meaning,
        "read": readings.read,
        "svg": lambda curve: data_uri("image/svg+xml", figures.svg(curve)),
        "png": lambda content: data_uri("image/png", content),
        "mp4": lambda content: data_uri("video/mp4", content),
    }
    return environment.get_template(TEMPLATE).render(report=report)


def data_uri(media_type: str, content: bytes) -> str:
    """`content` inside an address, so that the page needs nothing beside it."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def lead_sentence(rows: Sequence[Row], num_prompts: int, num_rounds: int) -> str:
    """What the campaign showed, in one sentence that claims no more than the intervals do."""
    by_name = {row.name: row for row in rows}
    parts = [
        f"{readings.meaning(name).title.lower()}: {readings.read(by_name[name])}"
        for name in ("trajectory_error_px", "gravity")
        if name in by_name
    ]
    said = "; ".join(parts) or "see the table"
    rounds = "1 round" if num_rounds == 1 else f"{num_rounds} rounds"
    return f"On {num_prompts} held-out prompts, after {rounds}: {said}."
