"""Update objectives, one function each, chosen by params.update.objective.

All get batches of the same update data (afd.stages.update_data), draw from the same generator and
add the same prior, so they differ only in how credit reaches the student.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from afd.config import UpdateParams
from afd.flow import path
from afd.flow.times import draw_times
from afd.losses.adversarial import generator_loss
from afd.losses.anchor import anchor
from afd.losses.distribution_matching import distribution_matching_loss
from afd.losses.flow_matching import nft_loss, sft_loss
from afd.losses.reverse_chain import reverse_chain_loss
from afd.row_draws import RowDraws
from afd.stages.update_data import UpdateData
from afd.students.update_models import UpdateModels

Metrics: TypeAlias = dict[str, Tensor]
Loss: TypeAlias = Callable[[Tensor, Generator, slice], tuple[Tensor, Metrics]]
"""(rows of the batch, draw, slice of them to compute) -> loss, metrics."""


def build(own: UpdateParams, models: UpdateModels, data: UpdateData) -> Loss:
    """Return the loss function of params' objective on `data`."""
    match own.objective:
        case "forward_process":
            objective = forward_process
        case "reverse_chain":
            objective = reverse_chain
        case "generator":
            objective = generator
        case "supervised":
            objective = supervised
        case "distribution_matching":
            objective = distribution_matching

    def loss(batch: Tensor, draw: Generator, rows: slice) -> tuple[Tensor, Metrics]:
        found, metrics, prior = objective(own, models, data, batch, draw, rows)
        return found + own.prior * prior, metrics

    return loss


def forward_process(
    own: UpdateParams,
    models: UpdateModels,
    data: UpdateData,
    batch: Tensor,
    draw: Generator,
    rows: slice,
) -> tuple[Tensor, Metrics, Tensor]:
    """AFD: rollouts noised at the sampler's times, weighted by their scores."""
    noise, t = _noised(own, models, data, batch, draw, rows)
    chosen = batch[rows]
    clean, text = data.clean[chosen], data.text[chosen]
    noisy = path.noisy(clean, noise, t)
    context = clean if own.context == "clean" else noisy
    velocity = models.student.velocity(noisy, t, text, context)
    with torch.no_grad():
        behaviour = models.behaviour.velocity(noisy, t, text, context)
    loss, metrics = nft_loss(
        velocity, behaviour, clean=clean, noise=noise, t=t, weight=data.weight[chosen],
        beta=own.beta, scaling=own.scaling,
    )  # fmt: skip
    prior, anchored = _prior(models, data, velocity, noisy, t, text, context)
    return loss, metrics | anchored, prior


def supervised(
    own: UpdateParams,
    models: UpdateModels,
    data: UpdateData,
    batch: Tensor,
    draw: Generator,
    rows: slice,
) -> tuple[Tensor, Metrics, Tensor]:
    """SFT: plain flow matching on teacher clips, each given its own clean past."""
    noise, t = _noised(own, models, data, batch, draw, rows)
    chosen = batch[rows]
    clean, text = data.clean[chosen], data.text[chosen]
    noisy = path.noisy(clean, noise, t)
    context = clean if own.context == "clean" else noisy
    velocity = models.student.velocity(noisy, t, text, context)
    loss, metrics = sft_loss(velocity, clean=clean, noise=noise, t=t, scaling=own.scaling)
    prior, anchored = _prior(models, data, velocity, noisy, t, text, context)
    return loss, metrics | anchored, prior


def reverse_chain(
    own: UpdateParams,
    models: UpdateModels,
    data: UpdateData,
    batch: Tensor,
    draw: Generator,
    rows: slice,
) -> tuple[Tensor, Metrics, Tensor]:
    """Policy gradient: one random step of the chain per block; the last has no density."""
    chain = data.chain
    num_steps, num_blocks = len(data.steps), models.student.geometry.num_blocks
    step = torch.randint(num_steps - 1, (len(batch), num_blocks), generator=draw)[rows]
    chosen = batch[rows]
    clean, text = data.clean[chosen], data.text[chosen]
    times = torch.tensor(data.steps)
    t, next_t = times[step], times[step + 1]
    noisy, following = (_at(chain[chosen], number) for number in (step, step + 1))
    velocity = models.student.velocity(noisy, t, text, clean)
    with torch.no_grad():
        behaviour = models.behaviour.velocity(noisy, t, text, clean)
    loss, metrics = reverse_chain_loss(
        velocity, behaviour, noisy=noisy, next_noisy=following, t=t, next_t=next_t,
        advantage=data.advantage[chosen], clip=own.ratio_clip,
    )  # fmt: skip
    prior, anchored = _prior(models, data, velocity, noisy, t, text, clean)
    return loss, metrics | anchored, prior


def generator(
    own: UpdateParams,
    models: UpdateModels,
    data: UpdateData,
    batch: Tensor,
    draw: Generator,
    rows: slice,
) -> tuple[Tensor, Metrics, Tensor]:
    """GAN: the discriminator's gradient through codec and last denoising step of own rollouts."""
    chosen = batch[rows]
    clean, text = data.clean[chosen], data.text[chosen]
    noisy = data.chain[chosen][:, -1]
    t = torch.full((len(chosen), models.student.geometry.num_blocks), data.steps[-1])
    velocity = models.student.velocity(noisy, t, text, clean)
    made = path.clean_from_velocity(noisy, velocity, t)
    draws = RowDraws.at(draw).select(torch.arange(len(batch))[rows], len(batch))
    scores, teacher_scores = data.pair_scores(made, chosen, draws)
    loss, metrics = generator_loss(scores, teacher_scores)
    prior, anchored = _prior(models, data, velocity, noisy, t, text, clean)
    return loss, metrics | anchored, prior


def distribution_matching(
    own: UpdateParams,
    models: UpdateModels,
    data: UpdateData,
    batch: Tensor,
    draw: Generator,
    rows: slice,
) -> tuple[Tensor, Metrics, Tensor]:
    """DMD: at one random step per block the student's clean estimate moves to the teacher.

    Blocks get the rollout's own past, as everywhere: KL(student || teacher) of a clip is the
    sum over blocks of that of each block given those before it.
    """
    chosen, num_blocks = batch[rows], models.student.geometry.num_blocks
    step = torch.randint(len(data.steps), (len(batch), num_blocks), generator=draw)[rows]
    noise = torch.randn((len(batch), *data.clean.shape[1:]), generator=draw)[rows]
    t = draw_times(
        "uniform", len(batch), num_blocks, draw, steps=data.steps, shift=data.shift
    )[rows]  # fmt: skip
    clean, text = data.clean[chosen], data.text[chosen]
    at = torch.tensor(data.steps)[step]
    noisy = _at(data.chain[chosen], step)
    velocity = models.student.velocity(noisy, at, text, clean)
    made = path.clean_from_velocity(noisy, velocity, at)
    again = path.noisy(made.detach(), noise, t)
    teacher, critic = data.matched(again, t, text, clean)
    loss, metrics = distribution_matching_loss(made, teacher, critic, noisy=again, t=t)
    prior, anchored = _prior(models, data, velocity, noisy, at, text, clean)
    return loss, metrics | anchored, prior


def _noised(
    own: UpdateParams,
    models: UpdateModels,
    data: UpdateData,
    batch: Tensor,
    draw: Generator,
    rows: slice,
) -> tuple[Tensor, Tensor]:
    """Return noise and times of rows `rows`, drawn for the whole batch: equal in any slicing."""
    noise = torch.randn((len(batch), *data.clean.shape[1:]), generator=draw)[rows]
    t = draw_times(
        own.times, len(batch), models.student.geometry.num_blocks, draw,
        steps=data.steps, shift=data.shift,
    )[rows]  # fmt: skip
    return noise, t


def _prior(
    models: UpdateModels,
    data: UpdateData,
    velocity: Tensor,
    noisy: Tensor,
    t: Tensor,
    text: Tensor,
    context: Tensor,
) -> tuple[Tensor, Metrics]:
    with torch.no_grad():
        reference = models.reference.velocity(noisy, t, text, context)
    return anchor(velocity, reference, data.latent_variance)


def _at(chain: Tensor, step: Tensor) -> Tensor:
    """Return the states of a chain [B, S, C, T, h, w] at each block's own step [B, blocks]."""
    frames = step.repeat_interleave(chain.shape[3] // step.shape[1], dim=1)
    index = frames[:, None, None, :, None, None].expand(-1, 1, *chain.shape[2:])
    return chain.gather(1, index)[:, 0]
