"""Stage `update`: score -> advantage -> weight -> flow matching on the student's own rollouts.

On-policy is a field, not a hope: rollouts made by another student than the one handed in are
refused, both named. Draws are keyed by (seed, round, step), so a killed update goes on bit for bit.
"""

import math
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from afd import advantage, seeds
from afd.artifacts import Artifact
from afd.config import UpdateParams
from afd.data.text import encode
from afd.data.weights import module_tensors, optimiser_tensors, restore_module, restore_optimiser
from afd.discriminators import checkpoint as discriminators
from afd.failpoints import failpoint
from afd.flow import path
from afd.flow.times import draw_times, step_list
from afd.losses.anchor import anchor
from afd.losses.flow_matching import nft_loss
from afd.stages.workspace import Workspace
from afd.store import Store
from afd.students.averaging import average_into, frozen_copy
from afd.students.checkpoint import load_student, save_student
from afd.students.codec import PatchCodec


class OffPolicyError(ValueError):
    """Rollouts and student do not belong together."""


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Leaves the updated student, its average and its optimiser."""
    own = UpdateParams.model_validate(params["update"])
    seed, round_index = int(params["seed"]), int(params["round_index"])
    off_policy = params["refresh"] == "never"  # the ablation: the first student's, for ever
    behaved = inputs["reference" if off_policy else "student"]
    refuse_off_policy(inputs["rollouts"], behaved)
    loaded = load_student(inputs["student"].path, "student")
    wan, codec = loaded.params, loaded.codec
    student = loaded.student.train()
    average = load_student(inputs["student"].path, "average").student
    behaviour = frozen_copy(load_student(behaved.path, "student").student)
    reference = load_student(inputs["reference"].path, "average").student.requires_grad_(False)
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=0.0, betas=own.betas, weight_decay=own.weight_decay
    )
    before = inputs["student"].path / "optimiser.safetensors"
    if before.exists():  # not after the warm start, whose schedule was another one
        restore_optimiser("optimiser", student, optimiser, load_file(before))

    table = pd.read_parquet(inputs["rollouts"].file("rollouts.parquet"))
    latents = load_file(inputs["rollouts"].file("rollouts.safetensors"))["latents"]
    text = encode(table["prompt"].tolist(), wan.num_text_tokens, wan.text_dim)
    group_size = int(inputs["rollouts"].manifest.summary["group_size"] or 0)
    judge = discriminators.load(inputs["discriminator"].path)
    scores = _scores(judge, codec, latents, text, seed, round_index).reshape(-1, group_size)
    advantages = advantage.advantages(scores, own.advantage_clip, own.advantage_scope)
    if own.shuffle_advantages:
        draw = seeds.generator(seed, "shuffled", round_index)
        advantages = advantage.shuffled(advantages, draw)
    chosen = advantage.extremes(advantages, own.num_best, own.num_worst)
    rows = (torch.arange(len(scores))[:, None] * group_size + chosen).flatten()
    weight = advantage.weights(advantages, own.advantage_clip).flatten()[rows]
    clean, text = latents[rows], text[rows]

    first, num_skipped = 0, 0
    if kept := work.resume():
        last, tensors, meta = kept
        first, num_skipped = last + 1, int(meta["num_skipped"])
        restore_module("student", student, tensors)
        restore_module("average", average, tensors)
        restore_optimiser("optimiser", student, optimiser, tensors)

    steps = step_list(wan.num_steps, wan.shift)
    metrics: dict[str, float] = {}
    for step in range(first, own.num_steps):
        optimiser.param_groups[0]["lr"] = learning_rate(
            own, round_index + step / own.num_steps, int(params["num_rounds"])
        )
        draw = seeds.generator(seed, "update", round_index, step)
        batch = _batch(len(rows), own.batch_size, step, seed, round_index)
        x, y = clean[batch], text[batch]
        noise = torch.randn(x.shape, generator=draw)
        t = draw_times(
            own.times, len(x), student.geometry.num_blocks, draw, steps=steps, shift=wan.shift
        )
        noisy = path.noisy(x, noise, t)
        velocity = student.velocity(noisy, t, y, x)
        with torch.no_grad():
            old = behaviour.velocity(noisy, t, y, x)
            start = reference.velocity(noisy, t, y, x)
        loss, told = nft_loss(
            velocity, old, clean=x, noise=noise, t=t, weight=weight[batch], beta=own.beta,
            scaling=own.scaling,
        )  # fmt: skip
        prior, anchored = anchor(velocity, start, codec.variance)
        loss = loss + own.prior * prior
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), own.gradient_clip)
        if torch.isfinite(loss) and torch.isfinite(norm):
            optimiser.step()
            average_into(average, student, own.ema_decay)
        else:
            num_skipped += 1
            _refuse_divergence(num_skipped, own, step, table, rows, batch, work)
        metrics = {name: float(value) for name, value in (told | anchored).items()}
        metrics["gradient_norm"] = float(norm)
        finite = {f"update/{k}": v for k, v in metrics.items() if math.isfinite(v)}
        work.record(round_index * own.num_steps + step, finite)
        work.progress(step + 1, own.num_steps)
        if step + 1 < own.num_steps and work.checkpoint_due():
            tensors = module_tensors("student", student) | module_tensors("average", average)
            tensors |= optimiser_tensors("optimiser", student, optimiser)
            work.checkpoint(step, tensors, {"num_skipped": num_skipped})
        failpoint("update.step")
    save_student(work.out, student, average, codec, student.geometry, wan)
    save_file(
        optimiser_tensors("optimiser", student, optimiser), work.out / "optimiser.safetensors"
    )
    return {
        "mean_score": scores.mean().item(),
        "group_spread": scores.std(dim=1).mean().item(),
        "zero_spread_share": advantage.zero_spread_share(scores).item(),
        "mean_abs_2w_minus_1": (2 * weight - 1).abs().mean().item(),
        "num_skipped": num_skipped,
        "resumed_from_step": first,
        "steps": " ".join(f"{step:.6g}" for step in steps),
        **{name: value for name, value in metrics.items() if math.isfinite(value)},
    }


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


def _batch(num_rows: int, batch_size: int, step: int, seed: int, round_index: int) -> Tensor:
    """Rows of this step: each pass over the rollouts in its own seeded order, no leftovers mixed."""
    size = min(batch_size, num_rows)
    per_pass = num_rows // size
    turn, place = divmod(step, per_pass)
    order = torch.randperm(num_rows, generator=seeds.generator(seed, "order", round_index, turn))
    return order[place * size : (place + 1) * size]


@torch.no_grad()
def _scores(
    judge: Any, codec: PatchCodec, latents: Tensor, text: Tensor, seed: int, round_index: int
) -> Tensor:
    """Scores [N] of decoded rollouts, seen through the same 8-bit pixels as teacher clips."""
    draw = seeds.generator(seed, "score", round_index)
    return torch.cat(
        [
            judge.score((codec.decode(part) * 255).round() / 255, words, draw)
            for part, words in zip(latents.split(128), text.split(128), strict=True)
        ]
    )


def _refuse_divergence(
    num_skipped: int,
    own: UpdateParams,
    step: int,
    table: pd.DataFrame,
    rows: Tensor,
    batch: Tensor,
    work: Workspace,
) -> None:
    """Count a non-finite loss; stop with the batch kept once there were too many."""
    kept = work.path / f"not-finite-step-{step:05d}.parquet"
    table.iloc[rows[batch].tolist()].to_parquet(kept)
    if num_skipped > own.max_skipped_steps:
        raise FloatingPointError(
            f"update: {num_skipped} losses were NaN or infinite, more than update.max_skipped_steps "
            f"({own.max_skipped_steps}); the last batch is kept in {kept}; lower "
            "update.learning_rate or raise update.prior"
        )
