"""THE loss: DiffusionNFT's contrastive flow matching (arXiv:2509.16117), weighted by advantage.

    v+ = (1 - beta) v_old + beta v        v- = (1 + beta) v_old - beta v
    L  = E[ w |v+ - velocity|^2 + (1 - w) |v- - velocity|^2 ]

v_old is the behaviour student (it made the rollouts), v the student in training, w in [0, 1] the
weight of a rollout. With e = v_old - velocity and d = v - v_old the two residuals are e + beta d
and e - beta d: at v = v_old the VALUE does not depend on w while the gradient is 2 beta (2w - 1) e.
The loss curve is no measure of progress; the metrics returned beside it are.

Two scalings. "velocity" is the formula above. "adaptive_clean" is the authors' code: the residual
in clean space, clean+- - clean = -t (v+- - velocity), its square divided by its own detached mean
absolute value, and the whole by beta, so that the size of a step hardly depends on beta.
Their code also multiplies by 5 (the advantage clip). The learning rate does not stand in for it:
AdamW's step is the same for a loss at any scale, what shifts is this loss against `prior` and how
often the gradient is clipped. To have theirs, divide update.prior and update.gradient_clip by 5.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from afd.flow import path
from afd.latents import BlockTimes, Latents

Scaling: TypeAlias = Literal["velocity", "adaptive_clean"]
Normaliser: TypeAlias = Literal["block", "sample"]
Metrics: TypeAlias = dict[str, Tensor]
SMALLEST_NORMALISER = 1e-5  # the authors' floor, in latent units


def nft_loss(
    student: Latents,
    behaviour: Latents,
    *,
    clean: Latents,
    noise: Latents,
    t: BlockTimes,
    weight: Tensor,
    beta: float,
    scaling: Scaling = "adaptive_clean",
    normaliser: Normaliser = "block",
) -> tuple[Tensor, Metrics]:
    """Student and behaviour velocities at noisy(clean, noise, t) -> (loss, metrics).

    weight is [batch] or [batch, blocks], in [0, 1]. `normaliser` says over what the adaptive scale
    is taken: each block of each sample (blocks have their own t here) or each sample, as published
    for images. Raises ValueError when beta <= 0.
    """
    if beta <= 0:
        raise ValueError(f"beta is {beta}: must be above 0")
    behaviour = behaviour.detach()
    error = behaviour - path.velocity(clean, noise)
    step = student - behaviour
    positive = squared_error(error + beta * step, t, scaling, normaliser)
    negative = squared_error(error - beta * step, t, scaling, normaliser)
    share = weight if weight.ndim == 2 else weight[:, None]
    loss = (share * positive + (1 - share) * negative).mean()
    if scaling == "adaptive_clean":
        loss = loss / beta
    with torch.no_grad():
        metrics = {
            "loss": loss.detach(),
            "positive": positive.mean(),
            "negative": negative.mean(),
            "weight_sharpness": (2 * share - 1).abs().mean(),
            "distance_to_behaviour": step.square().mean(),
        }
    return loss, metrics


def sft_loss(
    student: Latents,
    *,
    clean: Latents,
    noise: Latents,
    t: BlockTimes,
    scaling: Scaling = "velocity",
    normaliser: Normaliser = "block",
) -> tuple[Tensor, Metrics]:
    """Flow matching on given clips, |v - velocity|^2: the warm start and the sft arm."""
    error = student - path.velocity(clean, noise)
    loss = squared_error(error, t, scaling, normaliser).mean()
    with torch.no_grad():
        metrics = {"loss": loss.detach(), "velocity_error": error.square().mean()}
    return loss, metrics


def squared_error(
    error: Latents, t: BlockTimes, scaling: Scaling, normaliser: Normaliser
) -> Tensor:
    """Mean square of a velocity residual in the chosen scaling, [batch, blocks]."""
    if scaling == "velocity":
        return block_mean(error.square(), t.shape[1])
    error = path.per_block(t, error) * error
    size = block_mean(error.detach().abs(), t.shape[1])
    if normaliser == "sample":
        size = size.mean(dim=1, keepdim=True)
    return block_mean(error.square(), t.shape[1]) / size.clamp_min(SMALLEST_NORMALISER)


def block_mean(values: Latents, num_blocks: int) -> Tensor:
    """Mean over everything but sample and block, [batch, blocks]."""
    batch, channels, frames, height, width = values.shape
    blocks = values.reshape(batch, channels, num_blocks, frames // num_blocks, height, width)
    return blocks.mean(dim=(1, 3, 4, 5))
