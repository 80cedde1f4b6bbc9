"""Stage `warmstart`: the student before any round.

A published student is its own checkpoint with a new LoRA (`adopt`). A fresh one is trained by flow
matching on a rendered corpus (`train`).

The corpus has the right look and the wrong physics: no data of the teacher enters here. Every
draw is keyed by (seed, step), so a killed run goes on bit for bit.
"""

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from afd import seeds
from afd.artifacts import Artifact
from afd.config import (
    CausalWanParams,
    PublishedStudent,
    WarmstartParams,
    is_published,
    rows_and_columns,
)
from afd.flow import path
from afd.flow.times import draw_times, step_list
from afd.losses.flow_matching import sft_loss
from afd.prompts import Prompt, read_jsonl
from afd.runtime.training_loop import resumed_at, steps
from afd.runtime.training_state import Training
from afd.runtime.workspace import Workspace
from afd.store import Store
from afd.students import codec as codecs
from afd.students.averaging import average_into, frozen_copy
from afd.students.checkpoint import load_student, params_of, save_student
from afd.students.initialisation import build
from afd.text.word_vectors import encode
from afd.world import build as world
from afd.world.films import film_corpus
from afd.world.sentences import parse


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Write the files of afd.students.checkpoint."""
    student = params_of(params["student"])
    if is_published(student):
        return adopt(student, params, inputs, work)
    return train(student, params, inputs, work)


def adopt(
    student: PublishedStudent, params: dict[str, Any], inputs: dict[str, Artifact], work: Workspace
) -> dict[str, float | int | str | None]:
    """Load a published student strictly, encode every prompt once, add a new LoRA.

    Raises CheckpointError or TextError for files that do not fit.
    """
    from afd.students import published

    prompts = [prompt.text for prompt in read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))]
    rows, columns = rows_and_columns(params["frame_size"])
    clips = torch.Size((1, int(params["num_frames"]), 3, rows, columns))
    draw = seeds.generator(int(params["seed"]), "lora")
    started = published.write_start(student, prompts, clips, work.out, draw)
    save_student(
        work.out, started.weights, started.weights, started.codec, started.geometry, student
    )
    return {
        "num_parameters": sum(p.numel() for p in started.student.parameters()),
        "num_trained": sum(p.numel() for p in started.weights.parameters()),
        "num_prompts": len(set(prompts)),
        "latent_variance": started.codec.variance,
    }


def train(
    wan: CausalWanParams, params: dict[str, Any], inputs: dict[str, Artifact], work: Workspace
) -> dict[str, float | int | str | None]:
    """Train a fresh student, or train the input `start` further in its own latents.

    Raises FloatingPointError on a NaN loss.
    """
    seed = int(params["seed"])
    own = WarmstartParams.model_validate(params["warmstart"])
    prompts = read_jsonl(inputs["prompt_set"].file("prompts.jsonl"))
    clips, sentences = _corpus(prompts, own, seed, params["num_frames"])
    texts = encode(sentences, wan.num_text_tokens, wan.text_dim)

    codec: codecs.Codec
    if "start" in inputs:
        started = load_student(inputs["start"].path, "average")
        codec, student = started.codec, cast(Any, started.student).train()
        geometry = student.geometry
    else:
        patch = (wan.codec.frames, clips.shape[3], clips.shape[4])
        draw = seeds.generator(seed, "codec")
        codec = codecs.fit(clips, patch, wan.codec.components, wan.codec.whitening, draw)
        geometry = codec.geometry(clips.shape, wan.latent_frames_per_block)
        student = build(wan, geometry, seeds.generator(seed, "student"))
    latents = torch.cat([codec.encode(part) for part in clips.split(256)])
    average = frozen_copy(student)
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=own.weight_decay
    )
    training = Training("student", {"student": student, "average": average}, optimiser)
    times = step_list(wan.num_steps, wan.shift)
    loss = torch.tensor(math.nan)
    span = range(own.num_steps)
    for step in steps(work, training, span, "warmstart.step", {}):
        optimiser.param_groups[0]["lr"] = learning_rate(step, own)
        loss = _loss(student, latents, texts, own, times, wan.shift, seed, step)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"warmstart: loss is {loss.item()} at step {step}; lower warmstart.learning_rate "
                f"({own.learning_rate})"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        average_into(average, student, min(own.ema_decay, (1 + step) / (10 + step)))
        if step % 10 == 0:
            work.record(step, {"warmstart/loss": loss.item()})
    save_student(work.out, average, average, codec, geometry, wan)
    return {
        "num_parameters": sum(p.numel() for p in student.parameters()),
        "num_clips": len(clips),
        "num_steps": own.num_steps,
        "loss": loss.item(),
        "resumed_from_step": resumed_at(work, span),
        "latent_variance": codec.variance,
    }


def learning_rate(step: int, own: WarmstartParams) -> float:
    """Return the rate of a linear warm-up followed by a cosine to zero."""
    if step < own.warmup_steps:
        return own.learning_rate * (step + 1) / own.warmup_steps
    done = (step - own.warmup_steps) / max(1, own.num_steps - own.warmup_steps)
    return own.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _corpus(
    prompts: list[Prompt], own: WarmstartParams, seed: int, num_frames: int
) -> tuple[Tensor, list[str]]:
    """Render clips [N, F, 3, H, W] of train prompts under the corpus's laws, with sentences."""
    sentences = [parse(prompt.text) for prompt in prompts if prompt.split in ("train", "spare")]
    clips, chosen = film_corpus(
        sentences,
        world.laws(own.laws),
        world.look(own.look),
        seeds.derive(seed, "corpus"),
        own.num_clips,
        num_frames,
    )
    return torch.from_numpy(np.ascontiguousarray(clips)), [s.text for s in chosen]


def _loss(
    student: Any,
    latents: Tensor,
    texts: Tensor,
    own: WarmstartParams,
    times: tuple[float, ...],
    shift: float,
    seed: int,
    step: int,
) -> Tensor:
    """Return the flow-matching loss of one batch, teacher forcing on the clips' clean blocks."""
    draw = seeds.generator(seed, "warmstart", step)
    chosen = torch.randint(len(latents), (own.batch_size,), generator=draw)
    clean = latents[chosen]
    noise = torch.randn(clean.shape, generator=draw)
    num_blocks = student.geometry.num_blocks
    t = draw_times(own.times, len(clean), num_blocks, draw, steps=times, shift=shift)
    noisy = path.noisy(clean, noise, t)
    velocity = student.velocity(noisy, t, texts[chosen], clean)
    loss, _ = sft_loss(velocity, clean=clean, noise=noise, t=t, scaling="adaptive_clean")
    return loss
