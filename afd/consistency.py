"""Rules over several fields of params, so that they can be told while other fields are wrong."""

from collections.abc import Callable
from typing import Any, NamedTuple

LONGEST_SENTENCE = 23  # words, of the pocket world's grammar


class Rule(NamedTuple):
    """A rule over several fields, so that it can be told while others are still wrong."""

    fields: tuple[str, ...]  # dotted
    problem: Callable[..., str | None]  # of the fields' values: what is wrong, or None


def _whole_blocks(num_frames: int, frames: int, per_block: int) -> str | None:
    if num_frames % (frames * per_block) == 0:
        return None
    return (
        f"num_frames {num_frames} must be a multiple of student.codec.frames {frames} x "
        f"student.latent_frames_per_block {per_block}"
    )


def _within_group(best: int, worst: int, group_size: int) -> str | None:
    if best + worst <= group_size:
        return None
    return (
        f"update.num_best {best} + update.num_worst {worst} exceed rollout.group_size {group_size}"
    )


def _enough_held_out(num_prompts: int, num_held_out: int) -> str | None:
    if num_prompts <= num_held_out:
        return None
    return f"evaluate.num_prompts {num_prompts} exceeds prompts.num_held_out {num_held_out}"


def _cheaper_look(in_a_round: int, num_prompts: int) -> str | None:
    if in_a_round <= num_prompts:
        return None
    return f"evaluate.round_num_prompts {in_a_round} exceeds evaluate.num_prompts {num_prompts}"


def _films(teacher: str, frame_size: int) -> str | None:
    if teacher != "simulator" or frame_size == 16:
        return None
    return f"frame_size {frame_size} must be 16: the pocket world films 16x16 px"


def _room_for_words(prompts: str, num_tokens: int) -> str | None:
    if prompts != "grammar" or num_tokens >= LONGEST_SENTENCE:
        return None
    return (
        f"student.num_text_tokens {num_tokens} must be at least {LONGEST_SENTENCE}: so many words "
        "has the longest sentence of prompts.kind grammar"
    )


RULES: tuple[Rule, ...] = (
    Rule(
        ("num_frames", "student.codec.frames", "student.latent_frames_per_block"),
        _whole_blocks,
    ),
    Rule(("update.num_best", "update.num_worst", "rollout.group_size"), _within_group),
    Rule(("evaluate.num_prompts", "prompts.num_held_out"), _enough_held_out),
    Rule(("evaluate.round_num_prompts", "evaluate.num_prompts"), _cheaper_look),
    Rule(("teacher.kind", "frame_size"), _films),
    Rule(("prompts.kind", "student.num_text_tokens"), _room_for_words),
)


def broken_rules(read: Callable[[str], Any]) -> list[str]:
    """What is wrong; `read` gives a field's value, or raises LookupError to skip its rules."""
    problems: list[str] = []
    for rule in RULES:
        try:
            values = [read(field) for field in rule.fields]
        except LookupError:
            continue
        if problem := rule.problem(*values):
            problems.append(problem)
    return problems
