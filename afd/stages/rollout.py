"""Stage `rollout`: the current student answers the round's prompts, a group for each.

Every rollout's noise comes from its own seed, so the clips do not depend on batching or shards.
The student that made them is a field of the artifact: update refuses any other.
"""

from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from afd import seeds
from afd.artifacts import Artifact
from afd.config import RolloutParams
from afd.data.prompts import prompts_of_round, read_jsonl
from afd.data.text import encode
from afd.flow.solver import rollout
from afd.flow.times import step_list
from afd.stages.workspace import Workspace
from afd.store import Store
from afd.students.checkpoint import load_student


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Leaves latents [prompts * group, C, T, h, w] and the table of who is who, in one order."""
    own = RolloutParams.model_validate(params["rollout"])
    seed, round_index = int(params["seed"]), int(params["round_index"])
    loaded = load_student(inputs["student"].path, "student")
    student, wan = loaded.student, loaded.params
    prompts = read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))
    chosen = prompts_of_round(prompts, "train", own.num_prompts, seed, round_index)
    rows = [
        {
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "group": group,
            "seed": seeds.derive(seed, "rollout", round_index, group, member),
        }
        for group, prompt in enumerate(chosen)
        for member in range(own.group_size)
    ]
    steps = step_list(wan.num_steps, wan.shift)
    shape = (len(steps), *student.geometry.shape(1)[1:])
    parts: list[torch.Tensor] = []
    for start in range(0, len(rows), own.batch_size):
        batch = rows[start : start + own.batch_size]
        noise = seeds.sample_noise([row["seed"] for row in batch], shape)
        text = encode([row["prompt"] for row in batch], wan.num_text_tokens, wan.text_dim)
        parts.append(rollout(student, text, noise, steps))
        work.progress(start + len(batch), len(rows))
    latents = torch.cat(parts)
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
    return {
        "num_rollouts": len(rows),
        "num_prompts": len(chosen),
        "group_size": own.group_size,
        "steps": " ".join(f"{step:.6g}" for step in steps),
        "shift": wan.shift,
    }
