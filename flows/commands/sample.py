"""`afd sample`: videos of sentences by the student of any round.

Reads a campaign's folder and its store, on any machine that sees both; orders, trains and records
nothing.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from afd.sampling.campaign import Campaign, Round, RoundStudent, as_round, open_campaign
from afd.sampling.errors import SamplingError
from afd.sampling.sentences import EXAMPLE, refuse_sentences
from flows.command_text import RUNS, command, short_path
from flows.commands.options import Name, Runs, flag

if TYPE_CHECKING:
    from afd.sampling.comparison import Row
    from afd.sampling.video import Video
    from afd.students.checkpoint import WeightsName

TEACHER = "teacher"
MAX_SLUG = 60


@dataclass(frozen=True)
class Sampling:
    """Options of one call of `afd sample`."""

    campaign: str
    sentences: tuple[str, ...] = ()
    held_out: int = 0
    round: Round = "last"
    seeds: tuple[int, ...] = (1,)
    beside: tuple[str, ...] = ()
    output: str | None = None
    sheet: Path | None = None
    scale: int | None = None
    guidance: float | None = None
    which: "WeightsName" = "average"
    components: Path | None = None
    overwrite: bool = False
    runs: Path = RUNS
    store: Path | None = None


def sample(
    name: Name,
    *sentences: Annotated[str, Parameter(help="what to show, a video each")],
    round: Annotated[
        str, Parameter(help="whose student: a number, start (before any round) or last")
    ] = "last",
    seed: Annotated[
        str, Parameter(name=("--seed", "--seeds"), help="seeds of the noise, with commas: 1,2,3")
    ] = "1",
    held_out: Annotated[int, Parameter(help="also the first N held-out sentences")] = 0,
    beside: Annotated[
        tuple[str, ...],
        Parameter(
            help="shown beside it, with commas: start, teacher (its clips here), a round",
            show_default=False,
        ),
    ] = (),
    output: Annotated[
        str | None,
        Parameter(name=("--output", "-o"), help="an .mp4, or FOLDER/ for a file a sentence"),
    ] = None,
    sheet: Annotated[Path | None, Parameter(help="a contact sheet as well, a .png")] = None,
    scale: Annotated[
        int | None, Parameter(help="magnified by this whole factor; default: to 256 px of height")
    ] = None,
    guidance: Annotated[
        float | None, Parameter(help="classifier-free guidance, of published students")
    ] = None,
    weights: Annotated[
        Literal["average", "student"], Parameter(help="the moving average, or those in training")
    ] = "average",
    components: Annotated[
        Path | None, Parameter(help="folder of text_encoder/ and tokenizer/, for new sentences")
    ] = None,
    overwrite: Annotated[bool, flag("write over files that are there")] = False,
    runs: Runs = RUNS,
    store: Annotated[
        Path | None, Parameter(help="folder of artifacts; default: the one that it was run with")
    ] = None,
) -> None:
    """Make videos of sentences with the student of any round; nothing is ordered or trained."""
    write_videos(
        Sampling(
            campaign=name,
            sentences=sentences,
            held_out=held_out,
            round=as_round(round),
            seeds=_seeds(seed),
            beside=_split(beside),
            output=output,
            sheet=sheet,
            scale=scale,
            guidance=guidance,
            which=weights,
            components=components,
            overwrite=overwrite,
            runs=runs,
            store=store,
        )
    )


def _seeds(written: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in written.split(",")))
    except ValueError:
        raise SamplingError(f"--seed {written}: write whole numbers, such as 1 or 1,2,3") from None


def _split(values: Sequence[str]) -> tuple[str, ...]:
    """Return values given one by one or with commas between, each once."""
    return tuple(dict.fromkeys(part for value in values for part in value.split(",") if part))


def write_videos(sampling: Sampling) -> None:
    """Write the videos; raises SamplingError, wherever possible before anything is computed."""
    from afd.config import rows_and_columns
    from afd.sampling.comparison import refuse_too_large

    campaign = open_campaign(sampling.runs / sampling.campaign, sampling.store)
    student = campaign.student(sampling.round)
    others = [campaign.student(as_round(name)) for name in sampling.beside if name != TEACHER]
    sentences = _sentences(sampling, campaign)
    refuse_sentences(student.family, sentences)
    output = _output(sampling, student)
    files = _files(sampling, output, sentences)
    _refuse_places(sampling, files)
    if sampling.beside or len(files) == 1:
        columns = len(sampling.seeds) * (1 + len(others)) + (TEACHER in sampling.beside)
        size = rows_and_columns(campaign.settings["frame_size"])
        refuse_too_large(len(sentences) if len(files) == 1 else 1, columns, size, sampling.scale)
    rows = _rows(sampling, campaign, [*others, student], sentences)
    for file in _write(sampling, rows, files):
        sys.stdout.write(f"{short_path(file)}\n")


def _sentences(sampling: Sampling, campaign: Campaign) -> list[str]:
    """Return typed sentences, then held-out ones; raises SamplingError with an example for none."""
    held_out = [one.text for one in campaign.prompts if one.split == "held_out"]
    chosen = [*sampling.sentences, *held_out[: sampling.held_out]]
    if not chosen:
        example = (held_out or [EXAMPLE])[0]
        one = command("sample", sampling.campaign, example, runs=sampling.runs)
        more = command("sample", sampling.campaign, "--held-out", "4", runs=sampling.runs)
        raise SamplingError(
            f"no sentence; write one or more\n  {one}\n  {more}    the first held-out sentences"
        )
    return chosen


def _output(sampling: Sampling, student: RoundStudent) -> Path:
    """Return the file or folder to write; without -o named after campaign, student and seeds."""
    from afd.sampling.video import mp4_path

    if sampling.output is None:
        seeds = "-".join(map(str, sampling.seeds))
        return Path(f"{sampling.campaign}-{student.label.replace(' ', '-')}-seed-{seeds}.mp4")
    path = Path(sampling.output)
    return path if sampling.output.endswith("/") or path.is_dir() else mp4_path(path)


def _files(sampling: Sampling, output: Path, sentences: Sequence[str]) -> list[Path]:
    """Return the files to write: one, or in a folder one a sentence (and seed, if alone)."""
    if output.suffix.lower() == ".mp4" and not output.is_dir():
        return [output]
    stems = [f"{number:02d}-{_slug(one)}" for number, one in enumerate(sentences, start=1)]
    if sampling.beside:
        return [output / f"{stem}.mp4" for stem in stems]
    return [output / f"{stem}-seed-{seed}.mp4" for stem in stems for seed in sampling.seeds]


def _refuse_places(sampling: Sampling, files: Sequence[Path]) -> None:
    """Raise SamplingError for what is there already, or cannot be written."""
    from afd.sampling.video import refuse_unwritable

    if sampling.sheet is not None and sampling.sheet.suffix.lower() != ".png":
        raise SamplingError(f"--sheet {sampling.sheet}: a contact sheet is a PNG: end it in .png")
    for file in [*files, *([sampling.sheet] if sampling.sheet else [])]:
        refuse_unwritable(file)
        if file.exists() and not sampling.overwrite:
            raise SamplingError(
                f"{short_path(file)}: is there already; add --overwrite, or choose another name"
            )


def _rows(
    sampling: Sampling,
    campaign: Campaign,
    students: Sequence[RoundStudent],
    sentences: Sequence[str],
) -> "list[Row]":
    """Return each sentence with its videos: the teacher's, then for each seed every student's."""
    from afd.sampling.comparison import Row
    from afd.sampling.student import of_round
    from afd.sampling.video import Video

    made: dict[tuple[str, int, str], Video] = {}
    for student in students:  # one at a time in memory
        sampler = of_round(campaign, student, sampling.which, sampling.components)
        videos = sampler(list(sentences), sampling.seeds, guidance=sampling.guidance)
        for video in videos:
            made[student.label, video.seed or 0, video.sentence] = video
    teacher = _teacher(sampling, campaign, sentences)
    several = len(sampling.seeds) > 1
    return [
        Row(
            sentence,
            (
                *([(TEACHER, teacher[sentence])] if sentence in teacher else []),
                *(
                    (f"{one.label}, seed {seed}" if several else one.label,
                     made[one.label, seed, sentence])
                    for seed in sampling.seeds
                    for one in students
                ),
            ),
        )
        for sentence in sentences
    ]  # fmt: skip


def _teacher(
    sampling: Sampling, campaign: Campaign, sentences: Sequence[str]
) -> "dict[str, Video | None]":
    """Return the teacher's clips with --beside teacher; print the sentences without a clip."""
    if TEACHER not in sampling.beside:
        return {}
    from afd.sampling.teacher import TeacherClips

    clips = TeacherClips(campaign)
    found = {sentence: clips(sentence) for sentence in sentences}
    for sentence, clip in found.items():
        if clip is None:
            sys.stderr.write(f"the store has no teacher clip of {sentence!r}; none is ordered\n")
    return found


def _write(sampling: Sampling, rows: "Sequence[Row]", files: Sequence[Path]) -> list[Path]:
    from afd.sampling.comparison import comparison, contact_sheet
    from afd.sampling.video import write

    alone = [[video for _, video in row.columns if video is not None] for row in rows]
    if sampling.beside or len(files) != sum(map(len, alone)):
        parts = [rows] if len(files) == 1 else [[row] for row in rows]
        contents = [comparison(part, sampling.scale) for part in parts]
    else:
        contents = [video.mp4(sampling.scale) for videos in alone for video in videos]
    done = [write(file, content) for file, content in zip(files, contents, strict=True)]
    if sampling.sheet is not None:
        done.append(write(sampling.sheet, contact_sheet(rows)))
    return done


def _slug(sentence: str) -> str:
    """Return a sentence as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", sentence.lower())[:MAX_SLUG].strip("-") or "sentence"
