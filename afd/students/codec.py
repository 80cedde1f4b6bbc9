"""Pixel codec of the pocket student: fixed space-to-depth patches, optionally with a PCA.

One patch of frames x rows x columns pixels becomes one latent position. At pocket size a whole
4-frame block of 16x16 RGB is one token of 3,072 channels. Measured: a student with four tokens a
block did not learn positions (RoPE carries no absolute position in its values), one with one did.
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
    """Clips [0, 1] <-> latents: the interface of every student's codec."""

    @property
    def variance(self) -> float:
        """Mean variance of clean latents: the scale of the prior loss."""
        ...

    def geometry(self, clips_shape: torch.Size, latent_frames_per_block: int) -> LatentGeometry:
        """Return the latents' geometry for clips [batch, frames, 3, rows, columns]."""
        ...

    def encode(self, clips: Clips) -> Latents:
        """Return the latents of pixels. Raises ValueError for sizes that do not divide."""
        ...

    def decode(self, latents: Latents) -> Clips:
        """Return the pixels of latents; gradients reach the latents."""
        ...

    def save(self, folder: Path) -> None:
        """Write the codec's files into an artifact's folder."""
        ...


@dataclass(frozen=True, slots=True)
class PatchCodec:
    """Clips [0, 1] <-> latents of zero mean; `fit` makes one, `load` restores one from tensors.

    `mean` [pixels of a patch] is subtracted; without `basis` the centred pixels are the latents.
    `basis` [channels, pixels] holds orthonormal components, `deviation` [channels] the divisor of
    each latent (component standard deviation ** whitening). `variance` is the mean variance of the
    corpus's clean latents: the scale of the prior loss.
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
        """Return the latents' geometry for clips [batch, frames, 3, rows, columns]."""
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
        """Return the latents of pixels. Raises ValueError for clips that leave part patches."""
        latents = _to_patches(clips, self.patch) - self.mean
        if self.basis is not None and self.deviation is not None:
            latents = latents @ self.basis.T / self.deviation
        return latents.movedim(-1, 1)  # channels stay last in memory: patching them is then free

    def decode(self, latents: Latents) -> Clips:
        """Return pixels, clamped to [0, 1]: exact without a basis, a projection with one."""
        patches = latents.movedim(1, -1)
        if self.basis is not None and self.deviation is not None:
            patches = (patches * self.deviation) @ self.basis
        return _from_patches(patches + self.mean, self.patch).clamp(0, 1)

    def save(self, folder: Path) -> None:
        """Write codec.safetensors into `folder`."""
        save_file(self.state(), folder / "codec.safetensors")

    def state(self) -> dict[str, Tensor]:
        """Return all fields as tensors, for safetensors."""
        state = {
            "patch": torch.tensor(self.patch),
            "mean": self.mean,
            "variance": torch.tensor(self.variance, dtype=torch.float64),
        }
        if self.basis is not None and self.deviation is not None:
            state |= {"basis": self.basis, "deviation": self.deviation}
        return state


def load(state: Mapping[str, Tensor]) -> PatchCodec:
    """Return the codec of a saved `state`."""
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

    `num_components` None means all pixels and no PCA; `whitening` 0 leaves each component its own
    scale, 1 brings all to unit variance. Components come from a randomised subspace iteration
    (Halko et al., arXiv:0909.4061) with `generator`: 0.2 s where an eigendecomposition takes 8 s.
    Raises ValueError for fewer patches or pixels than components.
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
