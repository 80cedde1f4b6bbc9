"""Stage `critic`: a network of the student's family, fitted to the student's rollouts.

Distribution matching (afd/losses/distribution_matching.py) compares it with the white-box teacher.
Flow matching on each round's rollouts fits it, each block given the rollout's own past; it starts
as the student before any round. Draws are keyed by (seed, round, step).
"""

from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from afd import seeds
from afd.artifacts import Artifact
from afd.config import CriticParams, families_with, is_published
from afd.flow import path
from afd.flow.times import draw_times
from afd.losses.flow_matching import sft_loss
from afd.runtime.outcome import RefusedError
from afd.runtime.training_loop import resumed_at, steps
from afd.runtime.training_state import Training, optimiser_tensors, restore_optimiser
from afd.runtime.workspace import Workspace
from afd.stages import update_data
from afd.store import Store
from afd.students.averaging import average_into, frozen_copy
from afd.students.checkpoint import load_student, save_student

EMA_DECAY = 0.9  # the student's own: rounds are short


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Write the files of afd.students.checkpoint and its optimiser; raises RefusedError."""
    own = CriticParams.model_validate(params["critic"])
    seed, round_index = int(params["seed"]), int(params["round_index"])
    loaded = load_student(inputs["critic"].path, "student")
    if is_published(loaded.params):
        raise RefusedError(
            f"student.family {loaded.params.family}: a critic is a whole second network, and only "
            f"{families_with(lambda row: not row.is_published)} trains all its weights; choose "
            "another update.objective"
        )
    critic: Any = loaded.student.train()  # type: ignore[attr-defined]
    average = frozen_copy(cast(Any, load_student(inputs["critic"].path, "average").student))
    optimiser = torch.optim.AdamW(
        critic.parameters(), lr=own.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    before = inputs["critic"].path / "optimiser.safetensors"
    if before.exists():  # not after the warm start
        restore_optimiser("optimiser", critic, optimiser, load_file(before))
    data = update_data.from_samples(inputs, loaded)
    training = Training("student", {"student": critic, "average": average}, optimiser)
    span = range(own.num_steps + (own.warmup_steps if round_index == 0 else 0))
    loss = torch.tensor(float("nan"))
    for step in steps(work, training, span, "critic.step", {}):
        draw = seeds.generator(seed, "critic", round_index, step)
        rows = torch.randint(len(data.clean), (own.batch_size,), generator=draw)
        clean, text = data.clean[rows], data.text[rows]
        noise = torch.randn(clean.shape, generator=draw)
        t = draw_times(
            "uniform", len(clean), critic.geometry.num_blocks, draw,
            steps=data.steps, shift=data.shift,
        )  # fmt: skip
        velocity = critic.velocity(path.noisy(clean, noise, t), t, text, clean)
        loss, _ = sft_loss(velocity, clean=clean, noise=noise, t=t, scaling="adaptive_clean")
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"critic: loss is {loss.item()} at step {step}; lower update.critic.learning_rate "
                f"({own.learning_rate})"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        optimiser.step()
        average_into(average, critic, EMA_DECAY)
        work.record(step, {"critic/loss": loss.item()})
    save_student(work.out, critic, average, loaded.codec, critic.geometry, loaded.params)
    moments = optimiser_tensors("optimiser", critic, optimiser)
    save_file(moments, work.out / "optimiser.safetensors")
    return {"loss": loss.item(), "resumed_from_step": resumed_at(work, span)}
