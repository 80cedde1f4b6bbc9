"""Rules over several fields of params, reported also while other fields are wrong."""

from collections.abc import Callable
from typing import Any, NamedTuple

from afd.config.families import FamilyName, families_with, student_family

MATCHING = "distribution_matching"
# Limits of a clip before anything of it is decoded (afd/video/decode.py): 200 KB can hold 12 GB.
MAX_FRAMES, MAX_SIDE, MAX_SECONDS = 1000, 4096, 120.0
MAX_PIXELS = 1_200_000_000  # width x height x frames: 20 s of 1080p at 24 fps, and a bit
LONGEST_SENTENCE = 23  # words, of the pocket world's grammar


class Rule(NamedTuple):
    """Rule over several fields, checked while other fields are wrong."""

    fields: tuple[str, ...]  # dotted
    problem: Callable[..., str | None]  # of the fields' values: the problem, or None


def _whole_blocks(num_frames: int, frames: int, per_block: int) -> str | None:
    if num_frames % (frames * per_block) == 0:
        return None
    return (
        f"num_frames {num_frames} must be a multiple of student.codec.frames {frames} x "
        f"student.latent_frames_per_block {per_block}"
    )


def _best_and_worst_fit_group(best: int, worst: int, group_size: int) -> str | None:
    if best + worst <= group_size:
        return None
    return (
        f"update.num_best {best} + update.num_worst {worst} exceed rollout.group_size {group_size}"
    )


def _enough_prompts(num_prompts: int, split: str, num_held_out: int, num_tuning: int) -> str | None:
    there = num_tuning if split == "tuning" else num_held_out
    if num_prompts <= there:
        return None
    return f"evaluate.num_prompts {num_prompts} exceeds prompts.num_{split} {there}"


def _round_prompts_fit(in_a_round: int, num_prompts: int) -> str | None:
    if in_a_round <= num_prompts:
        return None
    return f"evaluate.round_num_prompts {in_a_round} exceeds evaluate.num_prompts {num_prompts}"


def _whole_wan_latents(
    family: FamilyName, num_frames: int, frame_size: int | tuple[int, int], per_block: int
) -> str | None:
    """Check Wan's VAE: 4 frames per latent frame after the first, 8 px per latent, patches of 2."""
    if not student_family(family).has_vae:
        return None
    sides = (frame_size,) if isinstance(frame_size, int) else frame_size
    problems: list[str] = []
    if num_frames % 4 != 1:
        problems.append(f"num_frames {num_frames} must be 4k+1: Wan's VAE drops the rest")
    elif ((num_frames - 1) // 4 + 1) % per_block:
        problems.append(
            f"num_frames {num_frames} makes {(num_frames - 1) // 4 + 1} latent frames, which must "
            f"be a multiple of student.latent_frames_per_block {per_block}"
        )
    if any(side % 16 for side in sides):
        problems.append(
            f"frame_size {frame_size} must be multiples of 16 for student.family {family}"
        )
    return "; ".join(problems) or None


def _warmstart_if_fresh(family: FamilyName, warmstart: object) -> str | None:
    published = student_family(family).is_published
    if not published and warmstart is None:
        return f"warmstart: missing; a student.family {family} starts from nothing"
    if published and warmstart is not None:
        return f"warmstart must be absent: student.family {family} starts from student.checkpoint"
    return None


def _simulator_frame_size(teacher: str, frame_size: int | tuple[int, int]) -> str | None:
    if teacher != "simulator" or frame_size == 16:
        return None
    return f"frame_size {frame_size} must be 16: the pocket world films 16x16 px"


def _delivered_size(
    teacher: str, size: int, frame_size: int | tuple[int, int], magnify: int
) -> str | None:
    """Check that rollouts have the size of the teacher's clips (docs/lab-notes.md)."""
    side = frame_size if isinstance(frame_size, int) else max(frame_size)
    if teacher != "simulator" or side * magnify == size:
        return None
    return (
        f"canonical.magnify {magnify} x frame_size {side} must be teacher.size {size}: rollouts "
        "are filmed as large as the teacher's clips"
    )


def _clip_limits(duration_s: float, fps: float, width: int, height: int) -> str | None:
    """Check the limits of a clip: every larger one would be paid and put aside."""
    frames = round(fps * duration_s)
    limits = (
        (frames, MAX_FRAMES, "frames"),
        (max(width, height), MAX_SIDE, "px a side"),
        (duration_s, MAX_SECONDS, "s"),
        (width * height * frames, MAX_PIXELS, "pixels in all frames"),
    )
    broken = [
        f"{value:,.10g} {what}, at most {most:,.10g}"
        for value, most, what in limits
        if value > most
    ]
    if not broken:
        return None
    return (
        f"teacher.size {width}x{height} at teacher.fps {fps:g} for teacher.duration_s "
        f"{duration_s:g} is more than a clip may be ({'; '.join(broken)}): every clip would be "
        "paid and put aside; ask for fewer or smaller frames"
    )


def _longest_sentence_fits(prompts: str, num_tokens: int) -> str | None:
    if prompts != "grammar" or num_tokens >= LONGEST_SENTENCE:
        return None
    return (
        f"student.num_text_tokens {num_tokens} must be at least {LONGEST_SENTENCE}: so many words "
        "has the longest sentence of prompts.kind grammar"
    )


def _whole_feature_latents(
    kind: str, num_frames: int, frame_size: int | tuple[int, int]
) -> str | None:
    """Check Wan's VAE: latent frames of 1, 5, 9 ... frames, patches of 16 px a side."""
    sides = (frame_size,) if isinstance(frame_size, int) else frame_size
    fits = num_frames % 4 == 1 and not any(side % 16 for side in sides)
    if kind != "dit_features" or fits:
        return None
    return (
        f"discriminator.kind dit_features needs num_frames 4k+1 and frame_size a multiple of 16, "
        f"got {num_frames} and {frame_size}"
    )


def _guidance_needs_empty_prompt(family: FamilyName, guidance: float | None) -> str | None:
    if guidance is None or student_family(family).open_vocabulary:
        return None
    return (
        f"evaluate.guidance {guidance:g} needs a published student: student.family {family} has "
        "never seen an empty prompt; write null"
    )


def _teacher_has_velocity(objective: str, teacher: str) -> str | None:
    if objective != MATCHING or teacher == "simulator":
        return None
    return (
        f"update.objective {MATCHING} needs a teacher that shows its velocity, and teacher.kind "
        f"{teacher} shows finished videos only: write forward_process, generator or supervised"
    )


def _white_box_if_matching(objective: str, white_box: object) -> str | None:
    if (objective == MATCHING) == (white_box is not None):
        return None
    if white_box is None:
        return (
            f"update.objective {MATCHING} needs a teacher that shows its velocity, and "
            "teacher.white_box is null: describe its training there as params/ablations/dmd.yaml "
            "does, or write forward_process, generator or supervised"
        )
    return f"teacher.white_box is read by update.objective {MATCHING} alone, not by {objective}"


def _critic_if_matching(objective: str, critic: object) -> str | None:
    if (objective == MATCHING) == (critic is not None):
        return None
    rule = "needs update.critic: write" if critic is None else "reads no update.critic: leave out"
    return f"update.objective {objective} {rule} what params/ablations/dmd.yaml has there"


def _horizon_is_built(family: FamilyName, horizon: int | None) -> str | None:
    if horizon is None or student_family(family).extends_rollouts:
        return None
    capable = families_with(lambda row: row.extends_rollouts)
    return (
        f"evaluate.horizon {horizon} needs student.family {capable}: longer rollouts of {family} "
        "are not built yet; write null"
    )


def _chains_are_built(objective: str, family: FamilyName) -> str | None:
    if objective in ("forward_process", "supervised") or student_family(family).replays_chains:
        return None
    capable = families_with(lambda row: row.replays_chains)
    return (
        f"update.objective {objective} needs student.family {capable}: every rollout's chain is "
        f"made again, many at once, and for {family} that is not built; write forward_process or "
        "supervised"
    )


def _discriminator_has_pixel_gradient(objective: str, kind: str) -> str | None:
    if objective != "generator" or kind == "conv":
        return None
    return (
        "update.objective generator needs discriminator.kind conv, whose gradient reaches pixels; "
        f"{kind} does its own preparation without one"
    )


def _shards_frozen_blocks(family: FamilyName, shard_blocks: bool) -> str | None:
    if not shard_blocks or student_family(family).is_published:
        return None
    return (
        "update.memory.shard_blocks needs a published student: what is shared out is frozen, and "
        f"student.family {family} trains all its weights; write false"
    )


RULES: tuple[Rule, ...] = (
    Rule(
        ("num_frames", "student.codec.frames", "student.latent_frames_per_block"),
        _whole_blocks,
    ),
    Rule(("update.num_best", "update.num_worst", "rollout.group_size"), _best_and_worst_fit_group),
    Rule(
        ("evaluate.num_prompts", "evaluate.split", "prompts.num_held_out", "prompts.num_tuning"),
        _enough_prompts,
    ),
    Rule(("evaluate.round_num_prompts", "evaluate.num_prompts"), _round_prompts_fit),
    Rule(
        ("student.family", "num_frames", "frame_size", "student.latent_frames_per_block"),
        _whole_wan_latents,
    ),
    Rule(("student.family", "warmstart"), _warmstart_if_fresh),
    Rule(("student.family", "evaluate.guidance"), _guidance_needs_empty_prompt),
    Rule(("student.family", "evaluate.horizon"), _horizon_is_built),
    Rule(("student.family", "update.memory.shard_blocks"), _shards_frozen_blocks),
    Rule(("teacher.kind", "frame_size"), _simulator_frame_size),
    Rule(("teacher.kind", "teacher.size", "frame_size", "canonical.magnify"), _delivered_size),
    Rule(
        ("teacher.duration_s", "teacher.fps", "teacher.size.width", "teacher.size.height"),
        _clip_limits,
    ),
    Rule(("prompts.kind", "student.num_text_tokens"), _longest_sentence_fits),
    Rule(("discriminator.kind", "num_frames", "frame_size"), _whole_feature_latents),
    Rule(("update.objective", "student.family"), _chains_are_built),
    Rule(("update.objective", "discriminator.kind"), _discriminator_has_pixel_gradient),
    Rule(("update.objective", "teacher.kind"), _teacher_has_velocity),
    Rule(("update.objective", "teacher.white_box"), _white_box_if_matching),
    Rule(("update.objective", "update.critic"), _critic_if_matching),
)


def broken_rules(read: Callable[[str], Any]) -> list[str]:
    """Return the problems; `read` returns a field's value, or raises LookupError to skip it."""
    problems: list[str] = []
    for rule in RULES:
        try:
            values = [read(field) for field in rule.fields]
        except LookupError:
            continue
        if problem := rule.problem(*values):
            problems.append(problem)
    return problems
