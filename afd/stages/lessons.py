"""What an update learns from: rollouts with their scores, or teacher clips, ready for a loss.

Draws are keyed by (seed, round), so the same artifacts give the same lesson.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Generator, Tensor

from afd import advantage, seeds
from afd.artifacts import Artifact
from afd.clips.shards import read_videos
from afd.config import UpdateParams
from afd.discriminators import checkpoint as discriminators
from afd.discriminators.discriminator import Discriminator
from afd.evaluation import gauges
from afd.flow.solver import trace
from afd.runtime.ranks import ALONE, Ranks
from afd.stages.panel import rank_correlation
from afd.stages.seen import at_once, in_parts, seen_rollouts, seen_teacher
from afd.store import Store
from afd.students.checkpoint import Loaded, load_student
from afd.students.codec import Codec
from afd.students.student import AnyStudent
from afd.video.canonical import CanonicalFormat, conform

TRACED_AT_ONCE = 128  # rollouts: the chains of 256 pocket ones take 50 MB
NUM_LOOKED_AT = 16  # groups in which still and repeated rollouts are looked for
SAME_CHAIN = 1e-3  # of the latents' spread; in another batch sums differ by 1e-6


class OffPolicyError(ValueError):
    """Rollouts and student do not belong together."""


Matched = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(noisy, t, text, context) -> velocities of the white-box teacher and of the critic."""
Judged = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]
"""(latents made for some rows, the rows, draw) -> their scores, with gradient; the teacher's."""


@dataclass(frozen=True)
class Lesson:
    """Clips in latent space, a row each, and what is known about them."""

    clean: Tensor  # [N, C, T, h, w]
    text: Tensor  # [N, L, text_dim]
    table: pd.DataFrame  # who they are
    gauges: dict[str, float]
    scored: pd.DataFrame  # every rollout with its score and advantage; no rows for clips
    steps: tuple[float, ...]  # of the sampler
    shift: float
    latent_variance: float
    advantage: Tensor  # [N]
    weight: Tensor  # [N] in [0, 1]
    chain: Tensor  # [N, steps, C, T, h, w]: noisy inputs of each step; no rows where not needed
    judged: Judged
    matched: Matched


def from_clips(shards: Sequence[Artifact], loaded: Loaded, canon: CanonicalFormat) -> Lesson:
    """Teacher clips as they are, under the student's own codec: the supervised arm."""
    tables: list[pd.DataFrame] = []
    latents: list[Tensor] = []
    for shard in shards:
        clips, table = read_videos(shard.path, canon, conform)
        latents += [loaded.codec.encode(part) for part in in_parts(clips)]
        tables.append(table)
    return _unscored(torch.cat(latents), pd.concat(tables, ignore_index=True), loaded)


def from_samples(
    inputs: dict[str, Artifact], loaded: Loaded, behaviour: AnyStudent | None = None
) -> Lesson:
    """Every rollout, without scores: what a critic learns from, and distribution matching.

    With `behaviour`, who made them, their chains are there, and the velocities that are matched.
    """
    rollouts = inputs["rollouts"]
    table = pd.read_parquet(rollouts.file("rollouts.parquet"))
    clean = load_file(rollouts.file("rollouts.safetensors"))["latents"]
    lesson = _unscored(clean, table, loaded)
    if behaviour is None:
        return lesson
    matched = matched_by(inputs["white_box"].path, inputs["critic"].path)
    return replace(lesson, chain=traced(lesson, behaviour), matched=matched)


def _unscored(clean: Tensor, table: pd.DataFrame, loaded: Loaded) -> Lesson:
    """Clips that nobody has judged."""
    none = torch.zeros(len(clean))
    return Lesson(
        clean=clean,
        text=loaded.encode(table["prompt"].tolist()),
        table=table,
        gauges={"num_clips": float(len(clean))},
        scored=table.iloc[:0],
        steps=loaded.steps,
        shift=loaded.params.shift,
        latent_variance=loaded.codec.variance,
        advantage=none,
        weight=none,
        chain=none[:0],
        judged=_unjudged,
        matched=_unmatched,
    )


def matched_by(white_box: Path, critic: Path) -> Matched:
    """Velocities of two networks in the student's own latents."""
    teacher, other = (load_student(folder, "average").student for folder in (white_box, critic))

    @torch.no_grad()
    def matched(noisy: Tensor, t: Tensor, text: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return teacher.velocity(noisy, t, text, context), other.velocity(noisy, t, text, context)

    return matched


def from_rollouts(
    inputs: dict[str, Artifact],
    store: Store,
    canon: CanonicalFormat,
    loaded: Loaded,
    behaviour: AnyStudent,
    own: UpdateParams,
    seed: int,
    round_index: int,
    ranks: Ranks = ALONE,
) -> Lesson:
    """Scores, advantages and weights of the rollouts; each group's best and worst are kept."""
    rollouts = inputs["rollouts"]
    table = pd.read_parquet(rollouts.file("rollouts.parquet"))
    latents = load_file(rollouts.file("rollouts.safetensors"))["latents"]
    text = loaded.encode(table["prompt"].tolist())
    group_size = int(rollouts.manifest.summary["group_size"] or 0)
    judge = discriminators.load(inputs["discriminator"].path, loaded.encode)
    draw = seeds.generator(seed, "score", round_index)
    said = judge.read(table["prompt"].tolist())
    pictures = seen_rollouts(rollouts, store, canon)
    scores = ranks.agreed(score(judge, pictures, said, draw)).reshape(-1, group_size)
    smallest = advantage.smallest_spread(judge.precision)
    advantages = advantage.advantages(scores, own.advantage_clip, own.advantage_scope, smallest)
    if own.shuffle_advantages:
        draw = seeds.generator(seed, "shuffled", round_index)
        advantages = advantage.shuffled(advantages, draw)
    chosen = advantage.extremes(advantages, own.num_best, own.num_worst)
    rows = (torch.arange(len(scores))[:, None] * group_size + chosen).flatten()
    if own.objective == "generator":  # a prompt that the teacher refused has nobody to be beside
        teacher, filmed = seen_teacher(inputs["teacher_clips"], rollouts, store, canon)
        has_clip = table["prompt"].isin(filmed["prompt"]).tolist()
        rows = rows[torch.tensor(has_clip)[rows]]
    weight = advantage.weights(advantages, own.advantage_clip).flatten()[rows]
    looked_at = pictures[: NUM_LOOKED_AT * group_size].numpy()
    told = {
        "mean_score": scores.mean().item(),
        "group_spread": scores.std(dim=1).mean().item(),
        "zero_spread_share": advantage.zero_spread_share(scores, smallest).item(),
        "mean_abs_2w_minus_1": (2 * weight - 1).abs().mean().item(),
        "effective_share": gauges.effective_share(weight.numpy()),
        "static_share": gauges.static_share(looked_at),
        "duplicate_share": gauges.duplicate_share(
            looked_at.reshape(-1, group_size, *looked_at.shape[1:])
        ),
    }
    told |= rank_correlation(
        pictures, table["prompt"].tolist(), scores, inputs["discriminator"], store
    )
    lesson = Lesson(
        clean=latents[rows],
        text=text[rows],
        table=table.iloc[rows.tolist()],
        gauges=told,
        scored=table.assign(score=scores.flatten().numpy(), advantage=advantages.flatten().numpy()),
        steps=loaded.steps,
        shift=loaded.params.shift,
        latent_variance=loaded.codec.variance,
        advantage=advantages.flatten()[rows],
        weight=weight,
        chain=weight[:0],
        judged=_unjudged,
        matched=_unmatched,
    )
    if own.objective in ("reverse_chain", "generator"):
        lesson = replace(lesson, chain=traced(lesson, behaviour))
        if own.objective == "generator":
            judged = judged_by(judge, said[rows], lesson, teacher, filmed, loaded.codec)
            lesson = replace(lesson, judged=judged)
    return lesson


@torch.no_grad()
def score(judge: Discriminator, pictures: Tensor, text: Tensor, draw: Generator) -> Tensor:
    """Scores [N] of rollouts as a discriminator sees them (afd/stages/seen.py), uint8."""
    words = text.split(at_once(pictures.shape[1:]))
    return torch.cat(
        [
            judge.score(judge.see(part), of_part, draw)
            for part, of_part in zip(in_parts(pictures), words, strict=True)
        ]
    )


def traced(lesson: Lesson, behaviour: AnyStudent) -> Tensor:
    """The noisy inputs of every step of the lesson's rollouts, made again from their seeds.

    Raises OffPolicyError when the chain does not end in the rollouts: another student made them.
    """
    shape = (len(lesson.steps), *lesson.clean.shape[1:])
    chains: list[Tensor] = []
    spread = lesson.clean.std()
    for rows in torch.arange(len(lesson.clean)).split(TRACED_AT_ONCE):
        noise = seeds.sample_noise(lesson.table["seed"].iloc[rows.tolist()].tolist(), shape)
        clean, chain = trace(behaviour, lesson.text[rows], noise, lesson.steps)
        distance = (clean - lesson.clean[rows]).abs().max() / spread
        if not distance < SAME_CHAIN:
            raise OffPolicyError(
                f"rollouts made again from their seeds differ by {float(distance):.2g} of the "
                f"latents' spread, more than {SAME_CHAIN}: these weights did not make them"
            )
        chains.append(chain)
    return torch.cat(chains)


def judged_by(
    judge: Discriminator,
    said: Tensor,
    lesson: Lesson,
    teacher: Tensor,
    table: pd.DataFrame,
    codec: Codec,
) -> Judged:
    """Scores with a gradient into latents, beside those of the same prompts' teacher clips.

    Student pixels are neither encoded nor rounded to 8 bits, which have no gradient: the only place
    where the sides do not take one path. Needs a discriminator that sees pixels as they are (conv).
    """
    row_of = {prompt: row for row, prompt in enumerate(table["prompt"])}
    mine = torch.tensor([row_of[prompt] for prompt in lesson.table["prompt"]])
    with torch.no_grad():
        seen = torch.cat([judge.see(part) for part in in_parts(teacher)])

    def judged(made: Tensor, rows: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
        scores = judge(codec.decode(made), said[rows], draw)
        with torch.no_grad():
            teacher_scores = judge(seen[mine[rows]], said[rows], draw)
        return scores, teacher_scores

    return judged


def _unjudged(made: Tensor, rows: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
    raise RuntimeError("this lesson was made without a discriminator's gradient")


def _unmatched(noisy: Tensor, t: Tensor, text: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("this lesson was made without a white-box teacher")
