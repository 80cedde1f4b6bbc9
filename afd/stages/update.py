"""Stage `update`: score -> advantage -> weight -> flow matching on the student's own rollouts.

afd.stages.update_data prepares the data, afd.stages.objectives holds the loss of each objective.

Rollouts by another student than the given one are refused, both named. Draws are keyed by (seed,
round, step), so a killed update goes on bit for bit.
"""

import math
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from afd import seeds
from afd.artifacts import Artifact
from afd.clips.permission import refuse_clips
from afd.config import MemoryParams, UpdateParams
from afd.runtime.micro_batches import MicroBatch, backward
from afd.runtime.ranks import ALONE, Ranks
from afd.runtime.training_loop import resumed_at, steps
from afd.runtime.training_state import Training, optimiser_tensors, restore_optimiser
from afd.runtime.workspace import Workspace
from afd.stages import objectives, update_data
from afd.stages.objectives import Loss
from afd.stages.requests import refuse_unpermitted
from afd.stages.update_data import OffPolicyError
from afd.store import Store
from afd.students.averaging import average_into
from afd.students.checkpoint import LoadedStudent
from afd.students.update_models import UpdateModels, load_update_models
from afd.video.canonical import CanonicalFormat, canonical_format

PLENTY = MemoryParams()


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Write the updated student, its average and its optimiser."""
    own = UpdateParams.model_validate(params["update"])
    seed, round_index = int(params["seed"]), int(params["round_index"])
    loaded, models = gather(params, inputs, own.memory, work.ranks)
    weights = models.weights
    optimiser = torch.optim.AdamW(
        weights.parameters(), lr=0.0, betas=own.betas, weight_decay=own.weight_decay
    )
    before = inputs["student"].path / "optimiser.safetensors"
    if before.exists():  # not after the warm start, whose schedule was another one
        restore_optimiser("optimiser", weights, optimiser, load_file(before))
    data = load_update_data(
        own, inputs, store, canonical_format(params), loaded, models, seed, round_index, work.ranks
    )
    refuse_uneven(own, len(data.clean), work.ranks)
    loss = objectives.build(own, models, data)

    training = Training("student", {"student": weights, "average": models.average}, optimiser)
    start = round_index * own.num_steps  # steps are counted over the campaign
    span = range(start, start + own.num_steps)
    tally = {"num_skipped": 0}
    micro_batch = MicroBatch.of(own.memory)
    metrics: dict[str, float] = {}
    for step in steps(work, training, span, "update.step", tally):
        optimiser.param_groups[0]["lr"] = learning_rate(
            own, step / own.num_steps, int(params["num_rounds"])
        )
        batch = batch_of(len(data.clean), own.batch_size, step - start, seed, round_index)
        draw = seeds.generator(seed, "update", round_index, step - start)
        optimiser.zero_grad(set_to_none=True)
        computed = accumulate(loss, batch, draw, work.ranks, weights, micro_batch)
        norm = torch.nn.utils.clip_grad_norm_(weights.parameters(), own.gradient_clip)
        if math.isfinite(computed.pop("total")) and torch.isfinite(norm):
            optimiser.step()
            average_into(models.average, weights, own.ema_decay)
        else:
            tally["num_skipped"] += 1
            skipped = data.table.iloc[batch.tolist()]
            refuse_divergence(tally["num_skipped"], own, step, skipped, work)
        metrics = computed | {"gradient_norm": float(norm)}
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        work.record(step, {f"update/{name}": value for name, value in metrics.items()})
    if not work.ranks.is_first:
        return {}
    models.save(work.out)
    data.scored.to_parquet(work.out / "scores.parquet", index=False)
    moments = optimiser_tensors("optimiser", weights, optimiser)
    save_file(moments, work.out / "optimiser.safetensors")
    return {
        **data.gauges,
        **metrics,
        **tally,
        "resumed_from_step": resumed_at(work, span),
        "steps": " ".join(f"{time:.6g}" for time in loaded.steps),
    }


def load_update_data(
    own: UpdateParams,
    inputs: dict[str, Artifact],
    store: Store,
    canon: CanonicalFormat,
    loaded: LoadedStudent,
    models: UpdateModels,
    seed: int,
    round_index: int,
    ranks: Ranks = ALONE,
) -> update_data.UpdateData:
    """Return the data of the objective; raises where the terms forbid training on its clips."""
    clips_of_teacher = [made for role, made in inputs.items() if role.startswith("teacher_clips")]
    for clips in clips_of_teacher:  # of the supervised and the generator arm
        refuse_unpermitted(clips.manifest.params["teacher"]["training_permitted"])
        refuse_clips(store, clips)
    match own.objective:
        case "supervised":
            return update_data.from_clips(clips_of_teacher, loaded, canon)
        case "distribution_matching":
            return update_data.from_samples(inputs, loaded, models.behaviour)
        case "forward_process" | "reverse_chain" | "generator":
            return update_data.from_rollouts(
                inputs, store, canon, loaded, models.behaviour, own, seed, round_index, ranks
            )


def gather(
    params: dict[str, Any],
    inputs: dict[str, Artifact],
    memory: MemoryParams = PLENTY,
    ranks: Ranks = ALONE,
) -> tuple[LoadedStudent, UpdateModels]:
    """Load the models; raises OffPolicyError for another student's rollouts."""
    behaved = inputs["reference" if params["refresh"] == "never" else "student"]
    if "rollouts" in inputs:
        refuse_off_policy(inputs["rollouts"], behaved)
    models = load_update_models(
        inputs["student"].path,
        (behaved.path, params["behaviour"]),
        inputs["reference"].path,
        gradient_checkpointing=memory.gradient_checkpointing,
        compile_blocks=memory.compile_blocks,
    )
    if "rollouts" in inputs:
        refuse_other_weights(inputs["rollouts"], models.behaviour_sha256())
    if memory.shard_blocks and ranks.count > 1:
        models.shard()
    return models.loaded, models


def accumulate(
    loss: Loss,
    batch: Tensor,
    draw: Generator,
    ranks: Ranks,
    weights: nn.Module,
    micro_batch: MicroBatch | None = None,
) -> dict[str, float]:
    """Compute the gradients of the whole batch's loss over all ranks and slices.

    Return the metrics of the batch, and its loss as `total`.
    """
    mine = ranks.rows(len(batch))
    means = backward(
        loss, batch, draw, mine, micro_batch or MicroBatch.of(PLENTY), weights.zero_grad
    )
    ranks.sum_gradients(weights.parameters())
    return ranks.mean(means, len(batch))


def refuse_off_policy(rollouts: Artifact, behaviour: Artifact) -> None:
    """Raise OffPolicyError unless `behaviour` made `rollouts`."""
    maker = rollouts.manifest.made_from["student"].fingerprint
    given = behaviour.manifest.fingerprint
    if maker != given:
        raise OffPolicyError(
            f"rollouts {rollouts.manifest.fingerprint[:16]} were made by student {maker[:16]}, but "
            f"update was handed student {given[:16]}; roll out again with that student"
        )


def refuse_other_weights(rollouts: Artifact, in_memory: str) -> None:
    """Raise OffPolicyError unless the behaviour weights are, to the bit, those of the rollouts.

    A copy of the student that was never synchronised has the right name and the wrong weights.
    """
    made_by = rollouts.manifest.summary.get("weights_sha256")
    if not made_by:
        raise OffPolicyError(
            f"rollouts {rollouts.manifest.fingerprint[:16]} do not tell which weights made them; "
            "roll out again: remove that folder from the store and run the same command again"
        )
    if made_by != in_memory:
        raise OffPolicyError(
            f"rollouts {rollouts.manifest.fingerprint[:16]} were made by weights "
            f"{str(made_by)[:16]}, but the behaviour student holds {in_memory[:16]}; roll out again"
        )


def learning_rate(own: UpdateParams, rounds_done: float, num_rounds: int) -> float:
    """Return a cosine from learning_rate.high at the first round to .low at the last."""
    low, high = own.learning_rate.low, own.learning_rate.high
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * rounds_done / num_rounds))


def refuse_uneven(own: UpdateParams, num_rows: int, ranks: Ranks) -> None:
    """Raise RefusedError when ranks of a sharded network would make unequal passes."""
    if own.memory.shard_blocks:
        ranks.refuse_unequal(min(own.batch_size, num_rows), "update.memory.shard_blocks")


def batch_of(num_rows: int, batch_size: int, step: int, seed: int, round_index: int) -> Tensor:
    """Return the rows of a step: each pass in its own seeded order, without a remainder."""
    size = min(batch_size, num_rows)
    turn, place = divmod(step, num_rows // size)
    order = torch.randperm(num_rows, generator=seeds.generator(seed, "order", round_index, turn))
    return order[place * size : (place + 1) * size]


def refuse_divergence(
    num_skipped: int, own: UpdateParams, step: int, batch: pd.DataFrame, work: Workspace
) -> None:
    """Save the batch of a non-finite loss; raise FloatingPointError after too many."""
    file = work.path / f"not-finite-step-{step:05d}.parquet"
    batch.to_parquet(file)
    if num_skipped > own.max_skipped_steps:
        raise FloatingPointError(
            f"update: {num_skipped} losses were NaN or infinite, more than "
            f"update.max_skipped_steps ({own.max_skipped_steps}); the last batch is in {file}; "
            "lower update.learning_rate or raise update.prior"
        )
