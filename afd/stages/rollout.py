"""Stage `rollout`: a group of rollouts of the current student for each prompt of the round.

Every rollout's noise comes from its own seed, so the clips do not depend on batching or shards.
The artifact names the student that made them: update refuses any other. Several processes may
compute the batches (runtime/parts.py).
"""

from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from afd import seeds
from afd.artifacts import Artifact
from afd.config import RolloutParams
from afd.flow.solver import rollout
from afd.prompts import prompts_of_round, read_jsonl
from afd.runtime.batches import Batch, Compute
from afd.runtime.parts import num_batches
from afd.runtime.workspace import Workspace
from afd.store import Store
from afd.students.checkpoint import describe, load_student
from afd.students.strict_loading import CheckpointError


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Write latents [prompts * group, C, T, h, w] and their table, in one order."""
    own, rows = RolloutParams.model_validate(params["rollout"]), rows_of(params, inputs)
    total = num_batches("rollout", params, inputs)
    made = work.batches(total, batches(params, inputs, store))
    latents = torch.cat([batch["latents"] for batch in made])
    bad = ~torch.isfinite(latents).flatten(1).all(dim=1)
    if bad.any():
        first = rows[int(bad.nonzero()[0])]["prompt"]
        raise FloatingPointError(
            f"rollout: {int(bad.sum())} of {len(rows)} rollouts hold NaN or infinity, first for "
            f"prompt {first!r}; the student has diverged: lower update.learning_rate or raise "
            "update.prior"
        )
    save_file({"latents": latents}, work.out / "rollouts.safetensors")
    pd.DataFrame(rows).to_parquet(work.out / "rollouts.parquet", index=False)
    weights = {bytes(batch["weights"].tolist()).hex() for batch in made}
    if len(weights) != 1:
        raise CheckpointError(f"rollout: parts were made by different weights: {sorted(weights)}")
    student = describe(inputs["student"].path)
    return {
        "num_rollouts": len(rows),
        "num_prompts": own.num_prompts,
        "group_size": own.group_size,
        "steps": " ".join(f"{step:.6g}" for step in student.steps),
        "shift": student.params.shift,
        "weights_sha256": weights.pop(),  # update proves that its behaviour student is these
    }


def batches(params: dict[str, Any], inputs: dict[str, Artifact], store: Store) -> Compute:
    """Return the function that computes batch n: latents of `batch_size` consecutive rows."""
    own, rows = RolloutParams.model_validate(params["rollout"]), rows_of(params, inputs)
    loaded = load_student(inputs["student"].path, own.behaviour)
    student, steps = loaded.student, loaded.steps
    shape = (len(steps), *student.geometry.shape(1)[1:])
    weights = torch.tensor(list(bytes.fromhex(loaded.weights_sha256())), dtype=torch.uint8)

    def compute(number: int) -> Batch:
        batch = rows[number * own.batch_size : (number + 1) * own.batch_size]
        noise = seeds.sample_noise([row["seed"] for row in batch], shape)
        text = loaded.encode([row["prompt"] for row in batch])
        return {"latents": rollout(student, text, noise, steps), "weights": weights.clone()}

    return compute


def rows_of(params: dict[str, Any], inputs: dict[str, Artifact]) -> list[dict[str, Any]]:
    """Return a row for each rollout, group by group, with the seed of its noise."""
    own = RolloutParams.model_validate(params["rollout"])
    seed, round_index = int(params["seed"]), int(params["round_index"])
    prompts = read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))
    chosen = prompts_of_round(prompts, "train", own.num_prompts, seed, round_index)
    return [
        {
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "group": group,
            "seed": seeds.derive(seed, "rollout", round_index, group, member),
        }
        for group, prompt in enumerate(chosen)
        for member in range(own.group_size)
    ]
