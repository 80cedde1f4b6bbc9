"""Stage `update`: score -> advantage -> weight -> flow matching on the student's own rollouts.

On-policy is a field, not a hope: rollouts made by another student than the one handed in are
refused, both named. Draws are keyed by (seed, round, step), so a killed update goes on bit for bit.
"""

import math
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from afd import advantage, seeds
from afd.artifacts import Artifact
from afd.config import CausalWanParams, UpdateParams
from afd.data.text import encode
from afd.data.weights import Training, optimiser_tensors, restore_optimiser
from afd.discriminators import checkpoint as discriminators
from afd.discriminators.discriminator import Discriminator
from afd.failpoints import failpoint
from afd.flow import path
from afd.flow.times import draw_times, step_list
from afd.losses.anchor import anchor
from afd.losses.flow_matching import nft_loss
from afd.stages.workspace import Workspace
from afd.store import Store
from afd.students.averaging import average_into
from afd.students.causal_wan import CausalWan
from afd.students.checkpoint import Loaded, load_student, save_student
from afd.students.codec import PatchCodec


class OffPolicyError(ValueError):
    """Rollouts and student do not belong together."""


class Players(NamedTuple):
    """Everybody whose velocity enters the loss."""

    student: CausalWan  # in training
    average: CausalWan  # its moving average
    behaviour: CausalWan  # made the rollouts: v_old
    reference: CausalWan  # before any round: v_ref


class Lesson(NamedTuple):
    """The chosen rollouts and what their scores say about them."""

    clean: Tensor  # [N, C, T, h, w]
    text: Tensor  # [N, L, text_dim]
    weight: Tensor  # [N] in [0, 1]
    table: pd.DataFrame  # who they are, a row each
    gauges: dict[str, float]


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Leaves the updated student, its average and its optimiser."""
    own = UpdateParams.model_validate(params["update"])
    seed, round_index = int(params["seed"]), int(params["round_index"])
    loaded, players = gather(inputs, off_policy=params["refresh"] == "never")
    student, wan = players.student, loaded.params
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=0.0, betas=own.betas, weight_decay=own.weight_decay
    )
    before = inputs["student"].path / "optimiser.safetensors"
    if before.exists():  # not after the warm start, whose schedule was another one
        restore_optimiser("optimiser", student, optimiser, load_file(before))
    lesson = choose(inputs, loaded, own, seed, round_index)

    training = Training("student", {"student": student, "average": players.average}, optimiser)
    start = round_index * own.num_steps  # steps are counted over the campaign
    first, num_skipped = start, 0
    if kept := work.resume():
        last, tensors, meta = kept
        first, num_skipped = last + 1, int(meta["num_skipped"])
        training.restore(tensors)

    metrics: dict[str, float] = {}
    for step in range(first, start + own.num_steps):
        optimiser.param_groups[0]["lr"] = learning_rate(
            own, step / own.num_steps, int(params["num_rounds"])
        )
        batch = batch_of(len(lesson.clean), own.batch_size, step - start, seed, round_index)
        draw = seeds.generator(seed, "update", round_index, step - start)
        loss, told = update_loss(players, lesson, batch, own, wan, loaded.codec.variance, draw)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), own.gradient_clip)
        if torch.isfinite(loss) and torch.isfinite(norm):
            optimiser.step()
            average_into(players.average, student, own.ema_decay)
        else:
            num_skipped += 1
            refuse_divergence(num_skipped, own, step, lesson.table.iloc[batch.tolist()], work)
        metrics = {name: float(value) for name, value in told.items()}
        metrics |= {"gradient_norm": float(norm)}
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        work.record(step, {f"update/{name}": value for name, value in metrics.items()})
        work.progress(step + 1 - start, own.num_steps)
        if step + 1 < start + own.num_steps and work.checkpoint_due():
            work.checkpoint(step, training.tensors(), {"num_skipped": num_skipped})
        failpoint("update.step")
    save_student(work.out, student, players.average, loaded.codec, student.geometry, wan)
    moments = optimiser_tensors("optimiser", student, optimiser)
    save_file(moments, work.out / "optimiser.safetensors")
    return {
        **lesson.gauges,
        **metrics,
        "num_skipped": num_skipped,
        "resumed_from_step": first - start,
        "steps": " ".join(f"{time:.6g}" for time in step_list(wan.num_steps, wan.shift)),
    }


def gather(inputs: dict[str, Artifact], *, off_policy: bool) -> tuple[Loaded, Players]:
    """The players, each from its artifact; raises OffPolicyError for rollouts of somebody else."""
    behaved = inputs["reference" if off_policy else "student"]  # off-policy: an ablation
    refuse_off_policy(inputs["rollouts"], behaved)
    loaded = load_student(inputs["student"].path, "student")
    players = Players(
        student=loaded.student.train(),
        average=load_student(inputs["student"].path, "average").student,
        behaviour=load_student(behaved.path, "student").student.requires_grad_(False),
        reference=load_student(inputs["reference"].path, "average").student.requires_grad_(False),
    )
    return loaded, players


def choose(
    inputs: dict[str, Artifact], loaded: Loaded, own: UpdateParams, seed: int, round_index: int
) -> Lesson:
    """Scores, advantages and weights of the rollouts; each group's best and worst are kept."""
    rollouts, wan = inputs["rollouts"], loaded.params
    table = pd.read_parquet(rollouts.file("rollouts.parquet"))
    latents = load_file(rollouts.file("rollouts.safetensors"))["latents"]
    text = encode(table["prompt"].tolist(), wan.num_text_tokens, wan.text_dim)
    group_size = int(rollouts.manifest.summary["group_size"] or 0)
    judge = discriminators.load(inputs["discriminator"].path)
    draw = seeds.generator(seed, "score", round_index)
    scores = score(judge, loaded.codec, latents, text, draw).reshape(-1, group_size)
    advantages = advantage.advantages(scores, own.advantage_clip, own.advantage_scope)
    if own.shuffle_advantages:
        draw = seeds.generator(seed, "shuffled", round_index)
        advantages = advantage.shuffled(advantages, draw)
    chosen = advantage.extremes(advantages, own.num_best, own.num_worst)
    rows = (torch.arange(len(scores))[:, None] * group_size + chosen).flatten()
    weight = advantage.weights(advantages, own.advantage_clip).flatten()[rows]
    gauges = {
        "mean_score": scores.mean().item(),
        "group_spread": scores.std(dim=1).mean().item(),
        "zero_spread_share": advantage.zero_spread_share(scores).item(),
        "mean_abs_2w_minus_1": (2 * weight - 1).abs().mean().item(),
    }
    return Lesson(latents[rows], text[rows], weight, table.iloc[rows.tolist()], gauges)


def update_loss(
    players: Players,
    lesson: Lesson,
    batch: Tensor,
    own: UpdateParams,
    wan: CausalWanParams,
    latent_variance: float,
    draw: Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The method's loss on rows `batch`: noised on the sampler's own times, own clean context."""
    clean, text = lesson.clean[batch], lesson.text[batch]
    noise = torch.randn(clean.shape, generator=draw)
    t = draw_times(
        own.times, len(clean), players.student.geometry.num_blocks, draw,
        steps=step_list(wan.num_steps, wan.shift), shift=wan.shift,
    )  # fmt: skip
    noisy = path.noisy(clean, noise, t)
    velocity = players.student.velocity(noisy, t, text, clean)
    with torch.no_grad():
        behaviour = players.behaviour.velocity(noisy, t, text, clean)
        reference = players.reference.velocity(noisy, t, text, clean)
    loss, metrics = nft_loss(
        velocity, behaviour, clean=clean, noise=noise, t=t, weight=lesson.weight[batch],
        beta=own.beta, scaling=own.scaling,
    )  # fmt: skip
    prior, anchored = anchor(velocity, reference, latent_variance)
    return loss + own.prior * prior, metrics | anchored


def refuse_off_policy(rollouts: Artifact, behaviour: Artifact) -> None:
    """Raise OffPolicyError unless `behaviour` made `rollouts`."""
    maker = rollouts.manifest.made_from["student"].fingerprint
    given = behaviour.manifest.fingerprint
    if maker != given:
        raise OffPolicyError(
            f"rollouts {rollouts.manifest.fingerprint[:16]} were made by student {maker[:16]}, but "
            f"update was handed student {given[:16]}; roll out again with that student"
        )


def learning_rate(own: UpdateParams, rounds_done: float, num_rounds: int) -> float:
    """A cosine from learning_rate.high at the first round to .low at the last."""
    low, high = own.learning_rate.low, own.learning_rate.high
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * rounds_done / num_rounds))


def batch_of(num_rows: int, batch_size: int, step: int, seed: int, round_index: int) -> Tensor:
    """Rows of this step: each pass over the rollouts in its own seeded order, no leftovers."""
    size = min(batch_size, num_rows)
    turn, place = divmod(step, num_rows // size)
    order = torch.randperm(num_rows, generator=seeds.generator(seed, "order", round_index, turn))
    return order[place * size : (place + 1) * size]


@torch.no_grad()
def score(
    judge: Discriminator, codec: PatchCodec, latents: Tensor, text: Tensor, draw: Generator
) -> Tensor:
    """Scores [N] of decoded rollouts, seen through the same 8-bit pixels as teacher clips."""
    return torch.cat(
        [
            judge.score((codec.decode(part) * 255).round() / 255, words, draw)
            for part, words in zip(latents.split(128), text.split(128), strict=True)
        ]
    )


def refuse_divergence(
    num_skipped: int, own: UpdateParams, step: int, batch: pd.DataFrame, work: Workspace
) -> None:
    """Keep the batch of a non-finite loss for inspection; stop once there were too many."""
    kept = work.path / f"not-finite-step-{step:05d}.parquet"
    batch.to_parquet(kept)
    if num_skipped > own.max_skipped_steps:
        raise FloatingPointError(
            f"update: {num_skipped} losses were NaN or infinite, more than "
            f"update.max_skipped_steps ({own.max_skipped_steps}); the last batch is in {kept}; "
            "lower update.learning_rate or raise update.prior"
        )
