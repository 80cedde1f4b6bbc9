"""The pocket student's pixel codec: fixed space-to-depth patches, optionally followed by a PCA.

One patch of frames x rows x columns pixels becomes one latent position. At pocket size a whole
4-frame block of 16x16 RGB is one token of 3,072 channels: measured, four tokens a block did not
learn where things are (RoPE carries no absolute position in its values), one did.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor

from afd.latents import Clips, LatentGeometry, Latents

NUM_POWER_ITERATIONS = 4  # subspace iteration: error of the spanned variance below 1e-4 on clips
SMALLEST_DEVIATION = 1e-4  # of a component, in pixels: below it, whitening amplifies rounding


class Codec(Protocol):
    """Clips [0, 1] <-> latents: what stages know of any student's codec."""

    @property
    def variance(self) -> float:
        """Mean variance of clean latents: the scale of the anchor."""
        ...

    def geometry(self, clips_shape: torch.Size, latent_frames_per_block: int) -> LatentGeometry:
        """Geometry of the latents of clips of this shape [batch, frames, 3, rows, columns]."""
        ...

    def encode(self, clips: Clips) -> Latents:
        """Pixels -> latents. Raises ValueError for sizes it cannot hold."""
        ...

    def decode(self, latents: Latents) -> Clips:
        """Latents -> pixels; differentiable with regard to them."""
        ...

    def save(self, folder: Path) -> None:
        """Leave in an artifact's folder what brings it back."""
        ...


@dataclass(frozen=True, slots=True)
class PatchCodec:
    """Clips [0, 1] <-> latents of zero mean; made by `fit`, or by `load` from saved tensors.

    `mean` [pixels of a patch] is taken away; without `basis` the centred pixels are the latents.
    `basis` [channels, pixels] holds orthonormal components, `deviation` [channels] the factor each
    latent was divided by (component standard deviation ** whitening). `variance` is the mean
    variance of the clean latents of the corpus: the scale of the anchor.
    """

    patch: tuple[int, int, int]
    mean: Tensor
    basis: Tensor | None
    deviation: Tensor | None
    variance: float

    @property
    def channels(self) -> int:
        return len(self.mean) if self.basis is None else len(self.basis)

    def geometry(self, clips_shape: torch.Size, latent_frames_per_block: int) -> LatentGeometry:
        """Geometry of the latents of clips of this shape [batch, frames, 3, rows, columns]."""
        _check_divides(clips_shape, self.patch)
        _, frames, _, rows, columns = clips_shape
        return LatentGeometry(
            channels=self.channels,
            num_latent_frames=frames // self.patch[0],
            latent_frames_per_block=latent_frames_per_block,
            height=rows // self.patch[1],
            width=columns // self.patch[2],
        )

    def encode(self, clips: Clips) -> Latents:
        """Pixels -> latents. Raises ValueError when clips do not divide into patches."""
        latents = _to_patches(clips, self.patch) - self.mean
        if self.basis is not None and self.deviation is not None:
            latents = latents @ self.basis.T / self.deviation
        return latents.movedim(-1, 1)  # channels stay last in memory: patching them is then free

    def decode(self, latents: Latents) -> Clips:
        """Latents -> pixels, clamped to [0, 1]. Exact without a basis, a projection with one."""
        patches = latents.movedim(1, -1)
        if self.basis is not None and self.deviation is not None:
            patches = (patches * self.deviation) @ self.basis
        return _from_patches(patches + self.mean, self.patch).clamp(0, 1)

    def save(self, folder: Path) -> None:
        """As codec.safetensors."""
        save_file(self.state(), folder / "codec.safetensors")

    def state(self) -> dict[str, Tensor]:
        """Everything as tensors, for safetensors."""
        state = {
            "patch": torch.tensor(self.patch),
            "mean": self.mean,
            "variance": torch.tensor(self.variance, dtype=torch.float64),
        }
        if self.basis is not None and self.deviation is not None:
            state |= {"basis": self.basis, "deviation": self.deviation}
        return state


def load(state: Mapping[str, Tensor]) -> PatchCodec:
    """The codec whose `state` this is."""
    frames, rows, columns = (int(size) for size in state["patch"])
    return PatchCodec(
        patch=(frames, rows, columns),
        mean=state["mean"],
        basis=state.get("basis"),
        deviation=state.get("deviation"),
        variance=float(state["variance"]),
    )


def fit(
    clips: Clips,
    patch: tuple[int, int, int],
    num_components: int | None,
    whitening: float,
    generator: Generator,
) -> PatchCodec:
    """Fit mean, components and variance on corpus clips.

    `num_components` None keeps all pixels and no PCA; `whitening` 0 keeps each component's own
    scale, 1 brings all to unit variance. Components come from a randomised subspace iteration
    (Halko et al., arXiv:0909.4061) with `generator`: 0.2 s where an eigendecomposition takes 8 s.
    Raises ValueError when there are fewer patches or pixels than components.
    """
    pixels = _to_patches(clips, patch).flatten(0, -2)
    mean = pixels.mean(dim=0)
    centred = pixels - mean
    if num_components is None:
        return PatchCodec(patch, mean, None, None, float(centred.square().mean()))
    if num_components > min(centred.shape):
        raise ValueError(
            f"num_components is {num_components}: the corpus has {centred.shape[0]} patches of"
            f" {centred.shape[1]} pixels"
        )
    size = min(num_components + 16, *centred.shape)
    span = torch.randn(centred.shape[1], size, generator=generator, dtype=centred.dtype)
    for _ in range(NUM_POWER_ITERATIONS):
        span = cast(Tensor, torch.linalg.qr(centred.T @ (centred @ span))[0])  # pyright: ignore
    singular, rows = cast(
        tuple[Tensor, Tensor],
        torch.linalg.svd(centred @ span, full_matrices=False)[1:],  # pyright: ignore
    )
    basis = (rows @ span.T)[:num_components]
    deviation = (singular[:num_components] / len(centred) ** 0.5).clamp_min(SMALLEST_DEVIATION)
    variance = float(deviation.pow(2 - 2 * whitening).mean())
    return PatchCodec(patch, mean, basis.contiguous(), deviation**whitening, variance)


def _to_patches(clips: Clips, patch: tuple[int, int, int]) -> Tensor:
    """[batch, frames, 3, rows, columns] -> [batch, T, h, w, pixels of a patch]."""
    _check_divides(clips.shape, patch)
    frames, rows, columns = patch
    batch, num_frames, _, height, width = clips.shape
    blocks = clips.reshape(
        batch, num_frames // frames, frames, 3, height // rows, rows, width // columns, columns
    )
    # -> batch, T, h, w, frames, 3, rows, columns
    return blocks.permute(0, 1, 4, 6, 2, 3, 5, 7).flatten(4)


def _from_patches(patches: Tensor, patch: tuple[int, int, int]) -> Clips:
    frames, rows, columns = patch
    blocks = patches.reshape(*patches.shape[:4], frames, 3, rows, columns)
    # batch, T, h, w, frames, 3, rows, columns -> batch, T, frames, 3, h, rows, w, columns
    return blocks.permute(0, 1, 4, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(1, 2)


def _check_divides(shape: torch.Size, patch: tuple[int, int, int]) -> None:
    sizes = (shape[1], shape[3], shape[4])
    if any(size % part for size, part in zip(sizes, patch, strict=True)):
        raise ValueError(
            f"clips of {sizes} (frames, rows, columns) do not divide into patches of {patch}"
        )
