"""Stage `fit`: the discriminator learns to tell teacher from student on same-prompt pairs.

Warm-up in the first round, a few steps in every round, part of each batch from the last rounds'
pairs. It is kept weak on purpose (few steps, noise, R1): an over-trained one ranks worse.
"""

import math
from typing import Any, NamedTuple

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Generator, Tensor

from afd import seeds
from afd.artifacts import Artifact
from afd.config import ConvDiscriminator, FitParams
from afd.data.shards import read_clips
from afd.data.text import encode
from afd.data.weights import Training
from afd.discriminators import checkpoint as discriminators
from afd.discriminators.conv import ConvDiscriminator as ConvModel
from afd.discriminators.conv import build
from afd.failpoints import failpoint
from afd.losses.adversarial import binary_cross_entropy, bradley_terry, r1_penalty
from afd.stages.request import refuse_unpermitted
from afd.stages.workspace import Workspace
from afd.store import Store
from afd.students.checkpoint import load_codec, load_student_params
from afd.students.codec import PatchCodec


class Pairs(NamedTuple):
    """One round's material, prompt by prompt."""

    teacher: Tensor  # [P, F, 3, H, W]
    student: Tensor  # [P, K, F, 3, H, W]
    text: Tensor  # [P, L, text_dim]


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Leaves the discriminator with its optimiser; the summary is what it did before and after."""
    own = FitParams.model_validate(params["fit"])
    shape = ConvDiscriminator.model_validate(params["discriminator"])
    seed, round_index = int(params["seed"]), int(params["round_index"])
    rounds = read_rounds(inputs, store)
    now = rounds[0]
    text_dim = now.text.shape[2]
    model = build(
        shape, params["num_frames"], params["frame_size"], text_dim,
        seeds.generator(seed, "discriminator"),
    )  # fmt: skip
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=own.learning_rate, betas=own.betas, weight_decay=own.weight_decay
    )
    training = Training("discriminator", {"discriminator": model}, optimiser)
    if previous := inputs.get("discriminator"):
        training.restore(load_file(previous.file("discriminator.safetensors")))
    before = measure(model, now, seeds.generator(seed, "before", round_index))
    first = 0
    if kept := work.resume():
        last, tensors, _ = kept
        first = last + 1
        training.restore(tensors)

    num_steps = own.num_steps + (own.warmup_steps if previous is None else 0)
    for step in range(first, num_steps):
        draw = seeds.generator(seed, "fit", round_index, step)
        total, metrics = fit_loss(model, draw_pairs(rounds, own, draw), own, draw)
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"fit: loss is {total.item()} in round {round_index}, step {step}; lower "
                f"fit.learning_rate ({own.learning_rate}) or raise fit.r1 ({own.r1})"
            )
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()
        work.record(step, {f"fit/{name}": float(value) for name, value in metrics.items()})
        work.progress(step + 1, num_steps)
        if step + 1 < num_steps and work.checkpoint_due():
            work.checkpoint(step, training.tensors(), {})
        failpoint("fit.step")
    sizes = (params["num_frames"], params["frame_size"], text_dim)
    discriminators.save(work.out, shape, *sizes, training.tensors())
    after = measure(model, now, seeds.generator(seed, "after", round_index))
    return {
        # Before: on rollouts and clips it has never seen, so it is held-out by construction.
        **{f"{name}_before": value for name, value in before.items()},
        **after,
        "num_steps": num_steps,
        "num_pairs": len(now.teacher),
        "num_replayed_rounds": len(rounds) - 1,
        "resumed_from_step": first,
    }


def fit_loss(
    model: ConvModel, pairs: tuple[Tensor, Tensor, Tensor], own: FitParams, draw: Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """The discriminator's whole loss on same-prompt pairs (teacher, student, text)."""
    teacher, student, text = pairs
    both = torch.cat([teacher, student]).requires_grad_(True)
    scores = model(both, torch.cat([text, text]), draw)
    teacher_scores, student_scores = scores.chunk(2)
    if own.loss == "bradley_terry":
        loss, metrics = bradley_terry(teacher_scores, student_scores)
    else:
        loss, metrics = binary_cross_entropy(teacher_scores, student_scores)
    if own.mismatch:
        # Matching-aware (Reed et al., arXiv:1605.05396): a teacher clip must score higher under its
        # own prompt than under another's. Look gives nothing away here, so motion and content are
        # learned: rank correlation with the true fall .38 -> .51 after 23 steps (lab notes).
        wrong = model(teacher, text.roll(1, dims=0), draw)
        matched, seen = bradley_terry(model(teacher, text, draw), wrong)
        loss = loss + own.mismatch * matched
        metrics |= {f"mismatch_{name}": value for name, value in seen.items()}
    if own.r1:
        penalty = r1_penalty(scores, both)
        loss = loss + own.r1 * penalty
        metrics |= {"r1": penalty.detach()}
    return loss, metrics


def read_rounds(inputs: dict[str, Artifact], store: Store) -> list[Pairs]:
    """This round's pairs, then the replayed ones, the newest first.

    Raises ValueError when teacher clips and rollouts of a round are about other prompts.
    """
    rounds: list[Pairs] = []
    while (role := f"rollouts_{len(rounds)}") in inputs:
        rollouts = inputs[role]
        clips = inputs[f"teacher_clips_{len(rounds)}"]
        student_ref = rollouts.manifest.made_from["student"]
        wan = load_student_params(store.path(student_ref))
        codec = load_codec(store.path(student_ref))
        refuse_unpermitted(clips.manifest.params["teacher"]["training_permitted"])
        teacher, table = read_clips(clips.path, *shape_of(clips))
        who = pd.read_parquet(rollouts.file("rollouts.parquet"))
        prompts = who.groupby("group")["prompt"].first().tolist()
        if prompts != table["prompt"].tolist():
            raise ValueError(
                f"teacher clips {clips.manifest.fingerprint[:16]} and rollouts "
                f"{rollouts.manifest.fingerprint[:16]} are about different prompts"
            )
        latents = load_file(rollouts.file("rollouts.safetensors"))["latents"]
        student = as_seen(codec.decode(latents)).unflatten(0, (len(prompts), -1))
        text = encode(prompts, wan.num_text_tokens, wan.text_dim)
        rounds.append(Pairs(_through(codec, teacher), student, text))
    return rounds


def shape_of(clips: Artifact) -> tuple[int, int]:
    """(frame size, frames) of the clips as the student sees them."""
    return clips.manifest.params["frame_size"], clips.manifest.params["num_frames"]


def as_seen(clips: Tensor) -> Tensor:
    """Clips as a file would show them: 8 bits a channel."""
    return (clips * 255).round() / 255


def _through(codec: PatchCodec, teacher: Tensor) -> Tensor:
    """Teacher clips through the student's codec, so that what it blurs gives nobody away."""
    return as_seen(codec.decode(codec.encode(teacher)))


def draw_pairs(
    rounds: list[Pairs], own: FitParams, draw: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Same-prompt pairs [B, ...]: `replay_share` of them from earlier rounds, if there are."""
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
    teacher, student, text = (torch.cat(part) for part in zip(*parts, strict=True))
    return teacher, student, text


@torch.no_grad()
def measure(model: Any, pairs: Pairs, draw: Generator) -> dict[str, float]:
    """Pair accuracy and margin on one rollout a prompt, and the spread inside groups of four.

    Accuracy near 1 is normal here and no alarm; a spread that vanishes is (pocket-world notes).
    """
    few = min(4, pairs.student.shape[1])
    teacher = model.score(pairs.teacher, pairs.text, draw)
    student = torch.stack(
        [model.score(pairs.student[:, member], pairs.text, draw) for member in range(few)], dim=1
    )
    margin = teacher - student[:, 0]
    measured = {
        "pair_accuracy": (margin > 0).float().mean().item(),
        "margin": margin.mean().item(),
        "group_spread": student.std(dim=1).mean().item(),
    }
    if not all(map(math.isfinite, measured.values())):
        raise FloatingPointError(f"fit: the discriminator's scores are not finite: {measured}")
    return measured
