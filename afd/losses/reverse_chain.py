"""The reverse-chain policy gradient: credit along the sampling chain, AFD's rival.

Flow-GRPO (arXiv:2505.05470) treats sampling as a chain of Gaussian steps and applies PPO's clipped
ratio to each. The few-step, re-noising sampler is such a chain without any change: given its noisy
input at t, the next one at t' is Gaussian around (1 - t') clean with standard deviation t', where
clean = noisy - t velocity is the student's guess (afd.flow.solver). So this arm sees the same
rollouts, scores and advantages as AFD and differs in credit assignment alone. The last step ends
at t' = 0, has no density and gets no credit.
"""

import torch
from torch import Tensor

from afd.flow import path
from afd.latents import BlockTimes, Latents
from afd.losses.flow_matching import block_mean

Metrics = dict[str, Tensor]


def reverse_chain_loss(
    student: Latents,
    behaviour: Latents,
    *,
    noisy: Latents,
    next_noisy: Latents,
    t: BlockTimes,
    next_t: BlockTimes,
    advantage: Tensor,
    clip: float,
) -> tuple[Tensor, Metrics]:
    """-E[ min(r A, clip(r, 1 - eps, 1 + eps) A) ] over blocks; velocities -> (loss, metrics).

    `student` and `behaviour` are velocities at `noisy`, which the sampler turned into `next_noisy`
    at next_t [batch, blocks]; advantage is [batch]. log r is averaged over a block's dimensions, as
    in the authors' code: summed over thousands of dimensions every ratio would be clipped.
    Raises ValueError when clip is outside (0, 1) or a next_t is 0.
    """
    if not 0 < clip < 1:
        raise ValueError(f"clip is {clip}: must be between 0 and 1")
    if bool((next_t <= 0).any()):
        raise ValueError("next_t holds 0: the last step of the chain is no Gaussian")
    log_ratio = log_density(student, noisy, next_noisy, t, next_t) - log_density(
        behaviour.detach(), noisy, next_noisy, t, next_t
    )
    ratio = log_ratio.exp()
    share = advantage[:, None]
    surrogate = torch.minimum(ratio * share, ratio.clamp(1 - clip, 1 + clip) * share)
    loss = -surrogate.mean()
    with torch.no_grad():
        metrics = {
            "loss": loss.detach(),
            "ratio_spread": (ratio - 1).abs().mean(),
            "clipped_share": ((ratio - 1).abs() > clip).float().mean(),
            "distance_to_behaviour": (student - behaviour).square().mean(),
        }
    return loss, metrics


def log_density(
    velocity: Latents, noisy: Latents, next_noisy: Latents, t: BlockTimes, next_t: BlockTimes
) -> Tensor:
    """log N(next_noisy; (1 - t') clean, t'^2) a dimension of each block, [batch, blocks].

    Up to the constant -log(t' sqrt(2 pi)), which every velocity shares.
    """
    clean = path.clean_from_velocity(noisy, velocity, t)
    time = path.per_block(next_t, noisy)
    residual = (next_noisy - (1 - time) * clean) / time
    return -0.5 * block_mean(residual.square(), t.shape[1])
