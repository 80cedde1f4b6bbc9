"""Update data: rollouts with their scores, or teacher clips, ready for a loss.

Draws are keyed by (seed, round), so the same artifacts give the same data.
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
from afd.errors import InputError
from afd.evaluation.metrics import diagnostics
from afd.flow.solver import trace
from afd.runtime.ranks import ALONE, Ranks
from afd.stages.diagnostics import rank_correlation
from afd.stages.discriminator_inputs import (
    HOLD,
    chunk_size,
    in_chunks,
    load_rollouts,
    load_teacher_clips,
)
from afd.store import Store
from afd.students.checkpoint import LoadedStudent, load_student
from afd.students.codec import Codec
from afd.students.student import AnyStudent
from afd.video.canonical import CanonicalFormat, conform
from afd.video.rhythm import held

TRACED_AT_ONCE = 128  # rollouts: the chains of 256 pocket ones take 50 MB
NUM_LOOKED_AT = 16  # groups searched for static and duplicate rollouts
SAME_CHAIN = 1e-3  # of the latents' spread; in another batch sums differ by 1e-6


class OffPolicyError(InputError):
    """Rollouts that the given student did not make."""


MatchedVelocities = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(noisy, t, text, context) -> velocities of the white-box teacher and of the critic."""
PairScores = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]
"""(latents made for some rows, the rows, draw) -> their scores, with gradient; the teacher's."""


@dataclass(frozen=True)
class UpdateData:
    """Clips in latent space with their scores, a row for each."""

    clean: Tensor  # [N, C, T, h, w]
    text: Tensor  # [N, L, text_dim]
    table: pd.DataFrame  # prompt, group and seed of each row
    gauges: dict[str, float]
    scored: pd.DataFrame  # every rollout with its score and advantage; no rows for clips
    steps: tuple[float, ...]  # of the sampler
    shift: float
    latent_variance: float
    advantage: Tensor  # [N]
    weight: Tensor  # [N] in [0, 1]
    chain: Tensor  # [N, steps, C, T, h, w]: noisy inputs of each step; no rows where not needed
    pair_scores: PairScores
    matched: MatchedVelocities


def from_clips(
    shards: Sequence[Artifact], loaded: LoadedStudent, canon: CanonicalFormat
) -> UpdateData:
    """Return teacher clips in the student's latents, for the supervised objective."""
    tables: list[pd.DataFrame] = []
    latents: list[Tensor] = []
    for shard in shards:
        clips, table = read_videos(shard.path, canon, conform)
        latents += [loaded.codec.encode(part) for part in in_chunks(clips)]
        tables.append(table)
    return _unscored(torch.cat(latents), pd.concat(tables, ignore_index=True), loaded)


def from_samples(
    inputs: dict[str, Artifact], loaded: LoadedStudent, behaviour: AnyStudent | None = None
) -> UpdateData:
    """Return every rollout without scores, for a critic and for distribution matching.

    With `behaviour`, the student that made them, chains and matched velocities are added.
    """
    rollouts = inputs["rollouts"]
    table = pd.read_parquet(rollouts.file("rollouts.parquet"))
    clean = load_file(rollouts.file("rollouts.safetensors"))["latents"]
    data = _unscored(clean, table, loaded)
    if behaviour is None:
        return data
    matched = matched_by(inputs["white_box"].path, inputs["critic"].path)
    return replace(data, chain=traced(data, behaviour), matched=matched)


def _unscored(clean: Tensor, table: pd.DataFrame, loaded: LoadedStudent) -> UpdateData:
    """Return update data without scores."""
    none = torch.zeros(len(clean))
    return UpdateData(
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
        pair_scores=_no_discriminator,
        matched=_no_white_box,
    )


def matched_by(white_box: Path, critic: Path) -> MatchedVelocities:
    """Return the function of both networks' velocities in the student's latents."""
    teacher, other = (load_student(folder, "average").student for folder in (white_box, critic))

    @torch.no_grad()
    def matched(noisy: Tensor, t: Tensor, text: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return teacher.velocity(noisy, t, text, context), other.velocity(noisy, t, text, context)

    return matched


def from_rollouts(
    inputs: dict[str, Artifact],
    store: Store,
    canon: CanonicalFormat,
    loaded: LoadedStudent,
    behaviour: AnyStudent,
    own: UpdateParams,
    seed: int,
    round_index: int,
    ranks: Ranks = ALONE,
) -> UpdateData:
    """Score the rollouts; return each group's best and worst with advantages and weights."""
    rollouts = inputs["rollouts"]
    table = pd.read_parquet(rollouts.file("rollouts.parquet"))
    latents = load_file(rollouts.file("rollouts.safetensors"))["latents"]
    text = loaded.encode(table["prompt"].tolist())
    group_size = int(rollouts.manifest.summary["group_size"] or 0)
    discriminator = discriminators.load(inputs["discriminator"].path, loaded.encode)
    draw = seeds.generator(seed, "score", round_index)
    prompt_features = discriminator.read(table["prompt"].tolist())
    # As most clips were shown that it was fitted on: a group's scores are compared in one rhythm.
    hold = int(inputs["discriminator"].manifest.summary.get(HOLD) or 1)
    pictures = load_rollouts(rollouts, store, replace(canon, hold=hold))
    scores = ranks.from_first(score(discriminator, pictures, prompt_features, draw)).reshape(
        -1, group_size
    )
    smallest = advantage.smallest_spread(discriminator.precision)
    advantages = advantage.advantages(scores, own.advantage_clip, own.advantage_scope, smallest)
    if own.shuffle_advantages:
        draw = seeds.generator(seed, "shuffled", round_index)
        advantages = advantage.shuffled(advantages, draw)
    chosen = advantage.extremes(advantages, own.num_best, own.num_worst)
    rows = (torch.arange(len(scores))[:, None] * group_size + chosen).flatten()
    if own.objective == "generator":  # a prompt that the teacher refused has no pair
        teacher, filmed = load_teacher_clips(inputs["teacher_clips"], rollouts, store, canon)
        has_clip = table["prompt"].isin(filmed["prompt"]).tolist()
        rows = rows[torch.tensor(has_clip)[rows]]
    weight = advantage.weights(advantages, own.advantage_clip).flatten()[rows]
    looked_at = pictures[: NUM_LOOKED_AT * group_size].numpy()
    measured = {
        "mean_score": scores.mean().item(),
        "group_spread": scores.std(dim=1).mean().item(),
        "zero_spread_share": advantage.zero_spread_share(scores, smallest).item(),
        "mean_abs_2w_minus_1": (2 * weight - 1).abs().mean().item(),
        "effective_share": diagnostics.effective_share(weight.numpy()),
        "static_share": diagnostics.static_share(looked_at),
        "duplicate_share": diagnostics.duplicate_share(
            looked_at.reshape(-1, group_size, *looked_at.shape[1:])
        ),
    }
    measured |= rank_correlation(
        pictures, table["prompt"].tolist(), scores, inputs["discriminator"], store
    )
    data = UpdateData(
        clean=latents[rows],
        text=text[rows],
        table=table.iloc[rows.tolist()],
        gauges=measured,
        scored=table.assign(score=scores.flatten().numpy(), advantage=advantages.flatten().numpy()),
        steps=loaded.steps,
        shift=loaded.params.shift,
        latent_variance=loaded.codec.variance,
        advantage=advantages.flatten()[rows],
        weight=weight,
        chain=weight[:0],
        pair_scores=_no_discriminator,
        matched=_no_white_box,
    )
    if own.objective in ("reverse_chain", "generator"):
        data = replace(data, chain=traced(data, behaviour))
        if own.objective == "generator":
            pair_scores = pair_scores_by(
                discriminator, prompt_features[rows], data, teacher, filmed, loaded.codec, hold
            )
            data = replace(data, pair_scores=pair_scores)
    return data


@torch.no_grad()
def score(discriminator: Discriminator, pictures: Tensor, text: Tensor, draw: Generator) -> Tensor:
    """Return scores [N] of uint8 rollouts prepared by afd/stages/discriminator_inputs.py."""
    words = text.split(chunk_size(pictures.shape[1:]))
    return torch.cat(
        [
            discriminator.score(discriminator.see(part), of_part, draw)
            for part, of_part in zip(in_chunks(pictures), words, strict=True)
        ]
    )


def traced(data: UpdateData, behaviour: AnyStudent) -> Tensor:
    """Return the noisy inputs of every step of the rollouts, sampled again from their seeds.

    Raises OffPolicyError when the chain does not end in the rollouts: another student made them.
    """
    shape = (len(data.steps), *data.clean.shape[1:])
    chains: list[Tensor] = []
    spread = data.clean.std()
    for rows in torch.arange(len(data.clean)).split(TRACED_AT_ONCE):
        noise = seeds.sample_noise(data.table["seed"].iloc[rows.tolist()].tolist(), shape)
        clean, chain = trace(behaviour, data.text[rows], noise, data.steps)
        distance = (clean - data.clean[rows]).abs().max() / spread
        if not distance < SAME_CHAIN:
            raise OffPolicyError(
                f"rollouts made again from their seeds differ by {float(distance):.2g} of the "
                f"latents' spread, more than {SAME_CHAIN}: these weights did not make them"
            )
        chains.append(chain)
    return torch.cat(chains)


def pair_scores_by(
    discriminator: Discriminator,
    prompt_features: Tensor,
    data: UpdateData,
    teacher: Tensor,
    table: pd.DataFrame,
    codec: Codec,
    hold: int = 1,
) -> PairScores:
    """Return the function of scores with a gradient into latents, and of the teacher's scores.

    Encoding and 8-bit rounding have no gradient, so student pixels skip both: the only difference
    between the sides. Needs a discriminator on plain pixels (conv).
    """
    row_of = {prompt: row for row, prompt in enumerate(table["prompt"])}
    mine = torch.tensor([row_of[prompt] for prompt in data.table["prompt"]])
    with torch.no_grad():
        seen = torch.cat([discriminator.see(part) for part in in_chunks(teacher)])

    def pair_scores(made: Tensor, rows: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
        pictures = codec.decode(made)
        if hold != 1:
            pictures = pictures[:, held(range(pictures.shape[1]), hold)]
        scores = discriminator(pictures, prompt_features[rows], draw)
        with torch.no_grad():
            teacher_scores = discriminator(seen[mine[rows]], prompt_features[rows], draw)
        return scores, teacher_scores

    return pair_scores


def _no_discriminator(made: Tensor, rows: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
    raise RuntimeError("this update data has no discriminator")


def _no_white_box(noisy: Tensor, t: Tensor, text: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("this update data has no white-box teacher")
