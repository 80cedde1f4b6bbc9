"""R1 without second derivatives, for backbones whose double backward does not fit or not exist."""

from collections.abc import Callable

from torch import Tensor

from afd.latents import Scores


def r1_by_differences(
    score: Callable[[Tensor], Scores], seen: Tensor, direction: Tensor, step: float
) -> Tensor:
    """E (directional derivative)^2 by central differences, whose mean is E |d score / d seen|^2.

    `direction` is standard normal, of the shape of `seen`: E (u . g)^2 = |g|^2, with a relative
    spread of sqrt(2 / rows) for one direction a row. `step` is in the units of `seen`; the error is
    of the order step^2 (measured: below 1e-3 of the exact penalty at step 0.01 on a smooth net).
    Two more forward passes, differentiable in the weights; cf. the approximated R1 of Seaweed-APT
    (arXiv:2501.08316), which takes one-sided differences.
    """
    ahead = score(seen + step * direction)
    behind = score(seen - step * direction)
    return ((ahead - behind) / (2 * step)).square().mean()
