"""Stage `fit`: the discriminator learns to separate teacher and student on same-prompt pairs.

Warm-up in the first round, a few steps in every round, part of each batch from the last rounds'
pairs. It stays weak on purpose (few steps, noise, R1): an over-trained one ranks worse.
"""

import math
from statistics import mode
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from afd import seeds
from afd.artifacts import Artifact
from afd.clips.permission import refuse_clips
from afd.clips.shards import prompt_places
from afd.config import FitParams
from afd.discriminators import checkpoint as discriminators
from afd.discriminators.build import AnyDiscriminator, build
from afd.discriminators.discriminator import Setting
from afd.evaluation.metrics import diagnostics
from afd.losses.adversarial import binary_cross_entropy, bradley_terry, r1_penalty
from afd.losses.gradient_penalty import r1_by_differences
from afd.row_draws import RowDraws, normal
from afd.runtime.micro_batches import slices
from afd.runtime.ranks import Ranks
from afd.runtime.training_loop import resumed_at, steps
from afd.runtime.training_state import Training
from afd.runtime.workspace import Workspace
from afd.stages.diagnostics import leak_accuracy
from afd.stages.discriminator_inputs import (
    HOLD,
    holds_of,
    in_chunks,
    load_rollouts,
    load_teacher_clips,
)
from afd.stages.requests import refuse_unpermitted
from afd.store import Store
from afd.students.checkpoint import load_encoder
from afd.video.canonical import CanonicalFormat, canonical_format
from afd.video.rhythm import frames_held


class PairBatch(NamedTuple):
    """One batch of same-prompt pairs, a row for each."""

    teacher: Tensor  # [B, ...]
    student: Tensor  # [B, ...]
    text: Tensor  # [B, ...]


class PairClips(NamedTuple):
    """Clips of one round, processed alike (stages/discriminator_inputs.py), pair by pair."""

    teacher: Tensor  # uint8 [P, F, 3, H, W]
    student: Tensor  # uint8 [P, K, F, 3, H, W]
    prompts: list[str]  # P
    holds: list[int]  # P: frames that a picture is shown
    is_converted: bool  # some of the teacher's clips have another rate


class Pairs(NamedTuple):
    """Encoded pairs of one round, prompt by prompt."""

    teacher: Tensor  # [P, ...], preprocessed for the discriminator: conv [F, 3, H, W]
    student: Tensor  # [P, K, ...]
    text: Tensor  # [P, ...], its prompt features


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Write the discriminator with its optimiser; the summary has metrics before and after."""
    own = FitParams.model_validate(params["fit"])
    kind = discriminators.params_of(params["discriminator"])
    seed, round_index = int(params["seed"]), int(params["round_index"])
    encoder = load_encoder(store.path(inputs["rollouts_0"].manifest.made_from["student"]))
    setting = Setting(params["num_frames"], params["frame_size"], encoder.dim)
    model = build(kind, setting, encoder, seeds.generator(seed, "discriminator"))
    rounds, leaked = read_rounds(inputs, store, model, canonical_format(params))
    now = rounds[0]
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=own.learning_rate,
        betas=own.betas,
        weight_decay=own.weight_decay,
    )
    training = Training("discriminator", {"discriminator": model}, optimiser)
    if previous := inputs.get("discriminator"):
        training.restore(load_file(previous.file("discriminator.safetensors")))
    before = measure(model, now, seeds.generator(seed, "before", round_index))
    num_steps = own.num_steps + (own.warmup_steps if previous is None else 0)
    span = range(num_steps)
    tally = {"num_skipped": 0}
    for step in steps(work, training, span, "fit.step", tally):
        draw = seeds.generator(seed, "fit", round_index, step)
        pairs = draw_pairs(rounds, own, draw)
        optimiser.zero_grad(set_to_none=True)
        metrics = accumulate(model, pairs, own, draw, work.ranks)
        if math.isfinite(metrics.pop("total")) and gradients_are_finite(model):
            optimiser.step()
        else:
            tally["num_skipped"] += 1
            refuse_divergence(tally["num_skipped"], own, step, pairs, work)
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        work.record(step, {f"fit/{name}": value for name, value in finite.items()})
    if not work.ranks.is_first:
        return {}
    discriminators.save(work.out, kind, setting, training.tensors())
    after = measure(model, now, seeds.generator(seed, "after", round_index))
    if "anchor_rollouts" in inputs:  # the first round's pairs, which never change
        anchor = (inputs["anchor_clips"], inputs["anchor_rollouts"])
        pairs = encode_pairs(model, read_pairs(*anchor, store, canonical_format(params)))
        anchored = measure(model, pairs, seeds.generator(seed, "anchor", round_index))
        after |= {"anchor_pair_accuracy": anchored["pair_accuracy"]}
    return {
        # Before: on rollouts and clips of no earlier step, held-out by construction.
        **{f"{name}_before": value for name, value in before.items()},
        **after,
        **leaked,
        "num_steps": num_steps,
        **(tally if tally["num_skipped"] else {}),
        "num_pairs": len(now.teacher),
        "num_replayed_rounds": len(rounds) - 1,
        "resumed_from_step": resumed_at(work, span),
    }


def gradients_are_finite(model: AnyDiscriminator) -> bool:
    """Return True when all gradients are finite."""
    return all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def refuse_divergence(
    num_skipped: int, own: FitParams, step: int, pairs: PairBatch, work: Workspace
) -> None:
    """Save the pairs of a non-finite step; raise FloatingPointError after too many."""
    file = work.path / f"not-finite-step-{step:05d}.safetensors"
    if work.ranks.is_first:
        held = {name: part.contiguous() for name, part in pairs._asdict().items()}
        save_file(held, file)
    if num_skipped > own.max_skipped_steps:
        raise FloatingPointError(
            f"fit: {num_skipped} steps were NaN or infinite, more than fit.max_skipped_steps "
            f"({own.max_skipped_steps}); the last batch is in {file}; lower fit.learning_rate "
            f"({own.learning_rate}) or raise fit.r1 ({own.r1})"
        )


def accumulate(
    model: AnyDiscriminator, pairs: PairBatch, own: FitParams, draw: Generator, ranks: Ranks
) -> dict[str, float]:
    """Compute the gradients of the whole batch's loss over all ranks and slices.

    Return the metrics of the batch, and its loss as `total`.
    """
    num_pairs = len(pairs.text)
    mine = ranks.rows(num_pairs)
    means: dict[str, Tensor] = {}
    for rows in slices(mine, model.micro_batch):
        total, metrics = fit_loss(model, pairs, own, RowDraws.at(draw), rows)
        (total * ((rows.stop - rows.start) / num_pairs)).backward()
        weight = (rows.stop - rows.start) / (mine.stop - mine.start)
        for name, value in (metrics | {"total": total.detach()}).items():
            means[name] = means[name] + weight * value if name in means else weight * value
    ranks.sum_gradients(model.parameters())
    return ranks.mean(means, num_pairs)


def fit_loss(
    model: AnyDiscriminator,
    pairs: PairBatch,
    own: FitParams,
    draw: Generator,
    rows: slice = slice(None),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the discriminator's loss and metrics on rows `rows` of a batch of pairs."""
    num_pairs = len(pairs.text)
    taken = torch.arange(num_pairs)[rows]
    draws = RowDraws.at(draw)
    teacher, student, text = (part[rows] for part in pairs)
    both = torch.cat([teacher, student]).requires_grad_(model.penalty_step is None)
    draws.select(torch.cat([taken, num_pairs + taken]), 2 * num_pairs)
    scores = model(both, torch.cat([text, text]), draws)
    teacher_scores, student_scores = scores.chunk(2)
    if own.loss == "bradley_terry":
        loss, metrics = bradley_terry(teacher_scores, student_scores)
    else:
        loss, metrics = binary_cross_entropy(teacher_scores, student_scores)
    if own.mismatch:
        # Matching-aware (Reed et al., arXiv:1605.05396): a teacher clip must score higher under its
        # own prompt than under another's. Look gives nothing away here, so motion and content are
        # learned: rank correlation with the true fall .38 -> .51 after 23 steps (lab notes).
        draws.select(taken, num_pairs)
        wrong = model(teacher, pairs.text.roll(1, dims=0)[rows], draws)
        matched, seen = bradley_terry(model(teacher, text, draws), wrong)
        loss = loss + own.mismatch * matched
        metrics |= {f"mismatch_{name}": value for name, value in seen.items()}
    if own.r1:
        if model.penalty_step is None:
            penalty = r1_penalty(scores, both)
        else:
            draws.select(torch.cat([taken, num_pairs + taken]), 2 * num_pairs)
            penalty = r1_by_differences(
                lambda seen: model(seen, torch.cat([text, text]), draws.copy()),
                both,
                normal(both.shape, draws),
                model.penalty_step,
            )
        loss = loss + own.r1 * penalty
        metrics |= {"r1": penalty.detach()}
    return loss, metrics


def read_rounds(
    inputs: dict[str, Artifact], store: Store, model: AnyDiscriminator, canon: CanonicalFormat
) -> tuple[list[Pairs], dict[str, float]]:
    """Return encoded pairs of this round, then of replayed rounds, the newest first.

    Return this round's leak gauge too, measured while its clips are in memory, and HOLD where
    pictures are held. Raises ValueError when teacher clips and rollouts of a round have other
    prompts.
    """
    rounds: list[Pairs] = []
    leaked: dict[str, float] = {}
    while (role := f"rollouts_{len(rounds)}") in inputs:
        clips = inputs[f"teacher_clips_{len(rounds)}"]
        pictures = read_pairs(clips, inputs[role], store, canon)
        if not rounds:
            leaked = leak_accuracy(
                pictures.teacher, pictures.student[:, 0], with_time=pictures.is_converted
            )
            hold = mode(pictures.holds)
            leaked |= {HOLD: hold} if hold != 1 else {}
        rounds.append(encode_pairs(model, pictures))
    return rounds, leaked


def read_pairs(
    clips: Artifact, rollouts: Artifact, store: Store, canon: CanonicalFormat
) -> PairClips:
    """Read the pairs of one round; raises ValueError as `read_rounds`.

    Raises RefusedError, NotPermittedError for clips whose terms do not allow training.
    """
    refuse_unpermitted(clips.manifest.params["teacher"]["training_permitted"])
    refuse_clips(store, clips)
    teacher, table = load_teacher_clips(clips, rollouts, store, canon)
    who = pd.read_parquet(rollouts.file("rollouts.parquet"))
    prompts = who.groupby("group")["prompt"].first().tolist()
    try:
        paired = prompt_places(table, prompts)
    except ValueError:
        raise ValueError(
            f"teacher clips {clips.manifest.fingerprint[:16]} and rollouts "
            f"{rollouts.manifest.fingerprint[:16]} are about different prompts"
        ) from None
    holds = holds_of(table, canon)
    of_group = dict(zip(paired, holds, strict=True))
    of_rollout = [of_group.get(group, 1) for group in who["group"].tolist()]
    student = load_rollouts(rollouts, store, canon, of_rollout).unflatten(0, (len(prompts), -1))
    if len(paired) < len(prompts):  # groups without a pair do not enter
        student, prompts = student[paired], [prompts[place] for place in paired]
    is_converted = any(frames_held(rate, canon.fps) != 1 for rate in table["fps"].tolist())
    return PairClips(teacher, student, prompts, holds, is_converted)


def encode_pairs(model: AnyDiscriminator, pictures: PairClips) -> Pairs:
    """Return the pairs with clips and prompts encoded for `model`."""
    student = pictures.student
    return Pairs(
        encode_clips(model, pictures.teacher),
        encode_clips(model, student.flatten(0, 1)).unflatten(0, student.shape[:2]),
        model.read(pictures.prompts),
    )


def encode_clips(model: AnyDiscriminator, clips: Tensor) -> Tensor:
    """Return clips uint8 [N, F, 3, H, W] encoded for `model`."""
    return torch.cat([model.see(part) for part in in_chunks(clips)])


def draw_pairs(rounds: list[Pairs], own: FitParams, draw: Generator) -> PairBatch:
    """Draw same-prompt pairs [B, ...], `replay_share` of them from earlier rounds, if any."""
    num_replayed = round(own.batch_size * own.replay_share) if len(rounds) > 1 else 0
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    sources = torch.zeros(own.batch_size, dtype=torch.long)
    if num_replayed:
        sources[:num_replayed] = 1 + torch.randint(len(rounds) - 1, (num_replayed,), generator=draw)
    for source in sources.unique().tolist():
        count = int((sources == source).sum())
        pairs = rounds[source]
        prompt = torch.randint(len(pairs.teacher), (count,), generator=draw)
        member = torch.randint(pairs.student.shape[1], (count,), generator=draw)
        parts.append((pairs.teacher[prompt], pairs.student[prompt, member], pairs.text[prompt]))
    return PairBatch(*(torch.cat(part) for part in zip(*parts, strict=True)))


@torch.no_grad()
def measure(model: Any, pairs: Pairs, draw: Generator) -> dict[str, float]:
    """Return pair accuracy and margin on one rollout per prompt, and the spread in groups of 4.

    An accuracy near 1 is normal; a vanishing spread is an alarm (pocket-world notes).
    """
    few = min(4, pairs.student.shape[1])
    teacher = model.score(pairs.teacher, pairs.text, draw)
    student = torch.stack(
        [model.score(pairs.student[:, member], pairs.text, draw) for member in range(few)], dim=1
    )
    margin = teacher - student[:, 0]
    if not (torch.isfinite(teacher).all() and torch.isfinite(student).all()):
        raise FloatingPointError("fit: the discriminator's scores are not finite")
    measured = {
        "pair_accuracy": (margin > 0).float().mean().item(),
        "margin": margin.mean().item(),
        "group_spread": student.std(dim=1).mean().item(),
        "calibration_error": diagnostics.calibration_error(margin.numpy()),
    }
    return measured
