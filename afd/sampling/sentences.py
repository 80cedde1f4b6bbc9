"""Sentences that a student can be given; imports no torch."""

from collections.abc import Sequence

from afd.config import FamilyName, student_family
from afd.prompts import check_text
from afd.sampling.errors import SamplingError
from afd.world.sentences import SentenceError, all_sentences, parse

EXAMPLE = "a small red ball starts high on the left and moves quickly to the right"


def refuse_sentences(family: FamilyName, sentences: Sequence[str]) -> None:
    """Raise SamplingError for every sentence that a student of this family cannot read."""
    problems = [
        f"sentence {number}: {problem}"
        for number, sentence in enumerate(sentences, start=1)
        if (problem := _problem(family, sentence)) is not None
    ]
    if not problems:
        return
    cure = ""
    if not student_family(family).open_vocabulary:
        cure = (
            f"\n  this student reads the {len(all_sentences())} sentences of the pocket world, "
            f"such as\n    {EXAMPLE}\n  other words need a published student: docs/students.md"
        )
    raise SamplingError("\n".join(problems) + cure)


def _problem(family: FamilyName, sentence: str) -> str | None:
    if (wrong := check_text(sentence)) is not None:
        return wrong
    if student_family(family).open_vocabulary:
        return None
    try:
        parse(sentence)
    except SentenceError as error:
        return str(error)
    return None
