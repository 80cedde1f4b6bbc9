"""Distribution matching distillation, the arm that needs a white-box teacher.

The difference of two velocities on the student's noised samples is, up to a factor, the gradient of
KL(student || teacher) at that noise level (DMD, arXiv:2311.18828; Self-Forcing, arXiv:2506.08009):
`teacher` is the white box's, `critic` that of a network kept fitted to the student's own samples.
"""

import torch
from torch import Tensor

from afd.flow import path
from afd.latents import BlockTimes, Latents
from afd.losses.flow_matching import SMALLEST_NORMALISER, block_mean

Metrics = dict[str, Tensor]


def distribution_matching_loss(
    sample: Latents, teacher: Latents, critic: Latents, *, noisy: Latents, t: BlockTimes
) -> tuple[Tensor, Metrics]:
    """Half the squared distance of `sample` to itself moved against the gradient.

    sample: what the student generated, with gradient; teacher and critic: velocities at `noisy`, a
    noised, detached copy of it. The gradient of the loss in `sample` is (clean_critic -
    clean_teacher) / |sample - clean_teacher|, per block, over the number of elements.
    """
    with torch.no_grad():
        towards = path.clean_from_velocity(noisy, teacher, t)
        away = path.clean_from_velocity(noisy, critic, t)
        size = block_mean((sample - towards).abs(), t.shape[1]).clamp_min(SMALLEST_NORMALISER)
        step = (away - towards) / path.per_block(size, sample)
    loss = 0.5 * (sample - (sample - step).detach()).square().mean()
    return loss, {"loss": loss.detach(), "step_size": step.square().mean().sqrt()}
