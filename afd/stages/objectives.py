"""What an update minimises: one function an arm, chosen by params.update.objective.

All of them see a batch of the same lesson (afd.stages.lessons), draw from the same generator and
pay the same prior, so arms differ in how credit reaches the student and in nothing else.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from afd.config import UpdateParams
from afd.draws import RowDraws
from afd.flow import path
from afd.flow.times import draw_times
from afd.losses.adversarial import generator_loss
from afd.losses.anchor import anchor
from afd.losses.distribution_matching import distribution_matching_loss
from afd.losses.flow_matching import nft_loss, sft_loss
from afd.losses.reverse_chain import reverse_chain_loss
from afd.stages.lessons import Lesson
from afd.students.players import Players

Told: TypeAlias = dict[str, Tensor]
Loss: TypeAlias = Callable[[Tensor, Generator, slice], tuple[Tensor, Told]]
"""(rows of the lesson that make up the batch, draw, which of them to compute) -> loss, metrics."""


def build(own: UpdateParams, players: Players, lesson: Lesson) -> Loss:
    """The loss of params' objective on `lesson`."""
    match own.objective:
        case "forward_process":
            arm = forward_process
        case "reverse_chain":
            arm = reverse_chain
        case "generator":
            arm = generator
        case "supervised":
            arm = supervised
        case "distribution_matching":
            arm = distribution_matching

    def loss(batch: Tensor, draw: Generator, rows: slice) -> tuple[Tensor, Told]:
        found, metrics, prior = arm(own, players, lesson, batch, draw, rows)
        return found + own.prior * prior, metrics

    return loss


def forward_process(
    own: UpdateParams, players: Players, lesson: Lesson, batch: Tensor, draw: Generator, rows: slice
) -> tuple[Tensor, Told, Tensor]:
    """AFD: rollouts noised on the sampler's own times, weighed by their scores."""
    noise, t = _noised(own, players, lesson, batch, draw, rows)
    chosen = batch[rows]
    clean, text = lesson.clean[chosen], lesson.text[chosen]
    noisy = path.noisy(clean, noise, t)
    context = clean if own.context == "clean" else noisy
    velocity = players.student.velocity(noisy, t, text, context)
    with torch.no_grad():
        behaviour = players.behaviour.velocity(noisy, t, text, context)
    loss, metrics = nft_loss(
        velocity, behaviour, clean=clean, noise=noise, t=t, weight=lesson.weight[chosen],
        beta=own.beta, scaling=own.scaling,
    )  # fmt: skip
    prior, anchored = _prior(players, lesson, velocity, noisy, t, text, context)
    return loss, metrics | anchored, prior


def supervised(
    own: UpdateParams, players: Players, lesson: Lesson, batch: Tensor, draw: Generator, rows: slice
) -> tuple[Tensor, Told, Tensor]:
    """SFT: plain flow matching; `lesson` holds teacher clips, each given its own clean past."""
    noise, t = _noised(own, players, lesson, batch, draw, rows)
    chosen = batch[rows]
    clean, text = lesson.clean[chosen], lesson.text[chosen]
    noisy = path.noisy(clean, noise, t)
    context = clean if own.context == "clean" else noisy
    velocity = players.student.velocity(noisy, t, text, context)
    loss, metrics = sft_loss(velocity, clean=clean, noise=noise, t=t, scaling=own.scaling)
    prior, anchored = _prior(players, lesson, velocity, noisy, t, text, context)
    return loss, metrics | anchored, prior


def reverse_chain(
    own: UpdateParams, players: Players, lesson: Lesson, batch: Tensor, draw: Generator, rows: slice
) -> tuple[Tensor, Told, Tensor]:
    """Policy gradient: one step of the sampling chain a block, drawn; the last has no density."""
    chain = lesson.chain
    num_steps, num_blocks = len(lesson.steps), players.student.geometry.num_blocks
    step = torch.randint(num_steps - 1, (len(batch), num_blocks), generator=draw)[rows]
    chosen = batch[rows]
    clean, text = lesson.clean[chosen], lesson.text[chosen]
    times = torch.tensor(lesson.steps)
    t, next_t = times[step], times[step + 1]
    noisy, following = (_at(chain[chosen], number) for number in (step, step + 1))
    velocity = players.student.velocity(noisy, t, text, clean)
    with torch.no_grad():
        behaviour = players.behaviour.velocity(noisy, t, text, clean)
    loss, metrics = reverse_chain_loss(
        velocity, behaviour, noisy=noisy, next_noisy=following, t=t, next_t=next_t,
        advantage=lesson.advantage[chosen], clip=own.ratio_clip,
    )  # fmt: skip
    prior, anchored = _prior(players, lesson, velocity, noisy, t, text, clean)
    return loss, metrics | anchored, prior


def generator(
    own: UpdateParams, players: Players, lesson: Lesson, batch: Tensor, draw: Generator, rows: slice
) -> tuple[Tensor, Told, Tensor]:
    """GAN: the discriminator's gradient through codec and last denoising step of own rollouts."""
    chosen = batch[rows]
    clean, text = lesson.clean[chosen], lesson.text[chosen]
    noisy = lesson.chain[chosen][:, -1]
    t = torch.full((len(chosen), players.student.geometry.num_blocks), lesson.steps[-1])
    velocity = players.student.velocity(noisy, t, text, clean)
    made = path.clean_from_velocity(noisy, velocity, t)
    draws = RowDraws.at(draw).take(torch.arange(len(batch))[rows], len(batch))
    scores, teacher_scores = lesson.judged(made, chosen, draws)
    loss, metrics = generator_loss(scores, teacher_scores)
    prior, anchored = _prior(players, lesson, velocity, noisy, t, text, clean)
    return loss, metrics | anchored, prior


def distribution_matching(
    own: UpdateParams, players: Players, lesson: Lesson, batch: Tensor, draw: Generator, rows: slice
) -> tuple[Tensor, Told, Tensor]:
    """DMD: what the student makes of one step of its chain a block, drawn, moves to the teacher.

    Blocks are given the rollout's own past, as everywhere: KL(student || teacher) of a clip is the
    sum over blocks of that of each block given those before it.
    """
    chosen, num_blocks = batch[rows], players.student.geometry.num_blocks
    step = torch.randint(len(lesson.steps), (len(batch), num_blocks), generator=draw)[rows]
    noise = torch.randn((len(batch), *lesson.clean.shape[1:]), generator=draw)[rows]
    t = draw_times(
        "uniform", len(batch), num_blocks, draw, steps=lesson.steps, shift=lesson.shift
    )[rows]  # fmt: skip
    clean, text = lesson.clean[chosen], lesson.text[chosen]
    at = torch.tensor(lesson.steps)[step]
    noisy = _at(lesson.chain[chosen], step)
    velocity = players.student.velocity(noisy, at, text, clean)
    made = path.clean_from_velocity(noisy, velocity, at)
    again = path.noisy(made.detach(), noise, t)
    teacher, critic = lesson.matched(again, t, text, clean)
    loss, metrics = distribution_matching_loss(made, teacher, critic, noisy=again, t=t)
    prior, anchored = _prior(players, lesson, velocity, noisy, at, text, clean)
    return loss, metrics | anchored, prior


def _noised(
    own: UpdateParams, players: Players, lesson: Lesson, batch: Tensor, draw: Generator, rows: slice
) -> tuple[Tensor, Tensor]:
    """Noise and times of rows `rows`, drawn for the whole batch so that slices see the same."""
    noise = torch.randn((len(batch), *lesson.clean.shape[1:]), generator=draw)[rows]
    t = draw_times(
        own.times, len(batch), players.student.geometry.num_blocks, draw,
        steps=lesson.steps, shift=lesson.shift,
    )[rows]  # fmt: skip
    return noise, t


def _prior(
    players: Players,
    lesson: Lesson,
    velocity: Tensor,
    noisy: Tensor,
    t: Tensor,
    text: Tensor,
    context: Tensor,
) -> tuple[Tensor, Told]:
    with torch.no_grad():
        reference = players.reference.velocity(noisy, t, text, context)
    return anchor(velocity, reference, lesson.latent_variance)


def _at(chain: Tensor, step: Tensor) -> Tensor:
    """The states of a chain [B, S, C, T, h, w] at each block's own step [B, blocks]."""
    frames = step.repeat_interleave(chain.shape[3] // step.shape[1], dim=1)
    index = frames[:, None, None, :, None, None].expand(-1, 1, *chain.shape[2:])
    return chain.gather(1, index)[:, 0]
