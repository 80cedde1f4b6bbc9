"""The prior term: keeps the student near the reference. Without it permanence is lost first."""

from torch import Tensor

from afd.latents import Latents


def anchor(
    student: Latents, reference: Latents, latent_variance: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """mean (v - v_ref)^2 / latent_variance.

    Divided by the variance of the clean latents so that one lambda_prior means the same thing for
    pixels and for whitened latents (measured: .1 on pixels and .02 at unit variance do the same
    work). Raises ValueError when latent_variance <= 0.
    """
    if latent_variance <= 0:
        raise ValueError(f"latent_variance is {latent_variance}: must be above 0")
    loss = (student - reference.detach()).square().mean() / latent_variance
    return loss, {"distance_to_reference": loss.detach()}
