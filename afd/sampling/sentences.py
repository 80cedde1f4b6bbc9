"""Sentences that a student can be given; imports no torch."""

from collections.abc import Sequence

from afd.prompts import check_text
from afd.sampling.errors import SamplingError
from afd.world.sentences import SentenceError, all_sentences, parse

POCKET_FAMILY = "causal_wan"  # starts from nothing, on films of the pocket world
EXAMPLE = "a small red ball starts high on the left and moves quickly to the right"


def refuse_sentences(family: str, sentences: Sequence[str]) -> None:
    """Raise SamplingError for every sentence that a student of this family cannot read."""
    problems = [
        f"sentence {number}: {problem}"
        for number, sentence in enumerate(sentences, start=1)
        if (problem := _problem(family, sentence)) is not None
    ]
    if not problems:
        return
    cure = ""
    if family == POCKET_FAMILY:
        cure = (
            f"\n  this student reads the {len(all_sentences())} sentences of the pocket world, "
            f"such as\n    {EXAMPLE}\n  other words need a published student: docs/students.md"
        )
    raise SamplingError("\n".join(problems) + cure)


def _problem(family: str, sentence: str) -> str | None:
    if (wrong := check_text(sentence)) is not None:
        return wrong
    if family != POCKET_FAMILY:
        return None
    try:
        parse(sentence)
    except SentenceError as error:
        return str(error)
    return None
