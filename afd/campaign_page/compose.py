"""Composition of a campaign page from a request and the store.

A film that is there already is not made again: a round costs its own films and one render.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from afd.artifacts import Artifact, ArtifactRef
from afd.campaign_page import charts, films, numbers
from afd.campaign_page.films import Panel
from afd.campaign_page.request import FOLDER, REQUEST, STAMP, PageRequest, film_name
from afd.campaign_page.templates import environment
from afd.config.values import rows_and_columns
from afd.evaluation import readings
from afd.store import Store, write_atomic

TEMPLATE = "page.html.j2"
REPORT = "report.html"


@dataclass(frozen=True)
class Clip:
    """A film of one prompt after one round."""

    prompt: str
    file: str  # relative to the page


@dataclass(frozen=True)
class RoundOnPage:
    """One place of the slider."""

    index: int
    label: str
    clips: Sequence[Clip]
    score: str  # the main metric in words
    show_command: str
    revision: str


@dataclass(frozen=True)
class Results:
    """The results table and what it rests on."""

    title: str
    num_prompts: int
    rows: Sequence[readings.Row]
    targets: Sequence[Any]


def write_page(request: PageRequest) -> Path:
    """Write the films that are missing, then the page; remove films of no round."""
    store, folder = Store(Path(request.store)), Path(request.folder)
    beside = folder / FOLDER
    beside.mkdir(exist_ok=True)
    rounds = [_loaded(store, made) for made in request.rounds]
    start, final = _loaded(store, request.start), _loaded(store, request.final)
    clips = [_films(request, beside, n, made, start) for n, made in enumerate(rounds)]
    stamp = datetime.now().astimezone().isoformat(" ", "microseconds")
    page = render(request, rounds, final, clips, stamp)
    write_atomic(request.page, page.encode())
    write_atomic(beside / STAMP, f"window.afdStamp = {json.dumps(stamp)};\n".encode())
    write_atomic(beside / REQUEST, request.model_dump_json().encode())
    made = {clip.file for some in clips for clip in some}
    for file in beside.glob("*.mp4"):
        if f"{FOLDER}/{file.name}" not in made:
            file.unlink(missing_ok=True)
    return request.page


def render(
    request: PageRequest,
    rounds: Sequence[Mapping[str, Artifact]],
    final: Mapping[str, Artifact],
    clips: Sequence[Sequence[Clip]],
    stamp: str,
) -> str:
    """Return the page as HTML; every value is escaped."""
    last = _measured(rounds[-1]["evaluation"]) if rounds else {}
    whole = _measured(final["evaluation"]) if final else {}
    base, teacher = numbers.levels_of(last, "base"), numbers.levels_of(whole, "teacher")
    held_out = numbers.held_out_charts(rounds, request.num_rounds, base, teacher)
    game = numbers.game_charts(rounds, request.num_rounds)
    first = [*held_out[:1], *game[:2]]
    rest = [chart for chart in (*held_out, *game) if chart not in first]
    while rest and len(first) < 3:  # arms without a discriminator
        first.append(rest.pop(0))
    return environment().get_template(TEMPLATE).render(
        request=request,
        stamp=stamp,
        rounds=[
            _on_page(request, index, made, clips[index], held_out)
            for index, made in enumerate(rounds)
        ],
        first=first,
        rest=rest,
        results=_results(request, whole, last, len(rounds)),
        settings=readings.flatten(request.params),
        has_report=(Path(request.folder) / REPORT).exists() and bool(final),
    )  # fmt: skip


def _loaded(store: Store, made: Mapping[str, ArtifactRef]) -> dict[str, Artifact]:
    """Return the artifacts of a round that the store has; `gc` or a clone may lack some."""
    return {role: store.load(ref) for role, ref in made.items() if store.have(ref)}


def _measured(evaluation: Artifact) -> dict[str, Any]:
    return json.loads(evaluation.file("summary.json").read_bytes())


def _films(
    request: PageRequest,
    beside: Path,
    index: int,
    made: Mapping[str, Artifact],
    start: Mapping[str, Artifact],
) -> list[Clip]:
    """Return the films of one round; encode those that are missing."""
    if "evaluation" not in made:
        return []
    evaluation, num_frames = made["evaluation"], int(request.params["num_frames"])
    prompts = _measured(evaluation).get("filmstrip_prompts", [])
    fingerprint = evaluation.manifest.fingerprint
    paths = [beside / film_name(index, fingerprint, n) for n in range(len(prompts))]
    clips = start.get("held_out_clips")
    shape = (num_frames, *rows_and_columns(request.params["frame_size"]))
    if not all(path.exists() for path in paths):
        sides = films.sides_of(evaluation, num_frames)
        filmed = {} if clips is None else films.teacher_clips(clips, prompts, shape)
        for path, (prompt, base, student) in zip(paths, sides, strict=False):
            panels = [
                Panel("base", "base", base),
                Panel("student", f"student, round {index}", student),
                Panel("teacher", "teacher", filmed.get(prompt), "no clip"),
            ]
            write_atomic(path, films.film(prompt, panels, int(request.params["fps"])))
    return [
        Clip(prompt, f"{FOLDER}/{path.name}")
        for path, prompt in zip(paths, prompts, strict=True)
        if path.exists()
    ]


def _on_page(
    request: PageRequest,
    index: int,
    made: Mapping[str, Artifact],
    clips: Sequence[Clip],
    held_out: Sequence[charts.Chart],
) -> RoundOnPage:
    main = held_out[0] if held_out else None
    value = dict(main.points).get(index) if main else None
    score = ""
    if main is not None and value is not None:
        unit = f" {main.unit}" if main.unit else ""
        base = main.levels.get("base")
        score = f"{main.title.lower()} {readings.show(value)}{unit}"
        score += f", base {readings.show(base)}" if base is not None else ""
    maker = made["student"].manifest.made_by if "student" in made else None
    return RoundOnPage(
        index,
        f"round {index}",
        clips,
        score,
        request.show_commands[index] if index < len(request.show_commands) else "",
        "" if maker is None else maker.revision[:10] + (" + changes" if maker.is_dirty else ""),
    )


def _results(
    request: PageRequest, whole: Mapping[str, Any], last: Mapping[str, Any], num_rounds: int
) -> Results | None:
    """Return the final evaluation's table; before it the last round's, which has no teacher."""
    measured = whole or last
    if not measured:
        return None
    prompts = int(measured["num_prompts"])
    title = "after the last round" if whole else f"after round {num_rounds - 1}, so far"
    margin = measured.get("frechet_margin") if whole else None
    rows = readings.rows(measured, margin)
    return Results(title, prompts, rows, numbers.targets_of(measured) if whole else [])
