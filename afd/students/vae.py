"""Wan's VAE as a codec (afd.students.codec), with normalised latents.

Latents are (z - mean) / std by the statistics in the VAE's config, so their variance is 1.
(diffusers' pipelines have a variable `latents_std` that holds 1 / std: it is not used here.)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor

from afd import stored_dtypes
from afd.device import compute_device
from afd.latents import Clips, LatentGeometry, Latents
from afd.students.strict_loading import CheckpointError, load_strictly

WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class WanCodec:
    """Clips [0, 1] of 4k + 1 frames <-> normalised latents of k + 1 frames.

    The network computes one clip and one latent frame at a time: at 480x832 that fits beside a
    student. Gradients pass through `decode` where latents need them.
    """

    vae: AutoencoderKLWan
    variance: float = 1.0  # of normalised latents, by construction

    @property
    def channels(self) -> int:
        return int(self._config.z_dim)

    @property
    def _config(self) -> Any:
        return self.vae.config

    def geometry(self, clips_shape: torch.Size, latent_frames_per_block: int) -> LatentGeometry:
        """Return the latents' geometry for clips [batch, frames, 3, rows, columns]."""
        _, frames, _, rows, columns = clips_shape
        num_latent_frames, height, width = self._sizes(frames, rows, columns)
        return LatentGeometry(
            self.channels, num_latent_frames, latent_frames_per_block, height, width
        )

    def encode(self, clips: Clips) -> Latents:
        """Return latents of pixels, the mode of the posterior. Raises ValueError by size."""
        _, frames, _, rows, columns = clips.shape
        self._sizes(frames, rows, columns)
        mean, std = self._statistics()
        encoded: list[Tensor] = []
        with torch.no_grad():
            for clip in clips.split(1):
                pixels = clip.to(mean).movedim(1, 2) * 2 - 1  # to the VAE's own device
                posterior = self.vae.encode(pixels).latent_dist  # type: ignore[union-attr]
                encoded.append((posterior.mode() - mean) / std)
        return torch.cat(encoded).float().to(clips.device)

    def decode(self, latents: Latents) -> Clips:
        """Return the pixels of latents, in [0, 1]."""
        return torch.cat([self.streaming_decoder()(row) for row in latents.split(1)])

    def streaming_decoder(self) -> "StreamingDecoder":
        """Return a decoder of one batch that takes its latents piece by piece."""
        return StreamingDecoder(self)

    def save(self, folder: Path) -> None:
        """Write config and weights as codec.json and codec.safetensors."""
        state = {name: v.cpu().contiguous() for name, v in self.vae.state_dict().items()}
        save_file(state, folder / "codec.safetensors")
        config = {k: v for k, v in dict(self._config).items() if not k.startswith("_")}
        (folder / "codec.json").write_text(json.dumps(config, indent=1))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and std [1, channels, 1, 1, 1] of latents, in the VAE's precision."""
        like = next(self.vae.parameters())
        mean, std = (
            torch.tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1, 1)
            for values in (self._config.latents_mean, self._config.latents_std)
        )
        return mean, std

    def _sizes(self, frames: int, rows: int, columns: int) -> tuple[int, int, int]:
        """Return latent frames, rows and columns; raises ValueError with every wrong size."""
        temporal = int(self._config.scale_factor_temporal)
        spatial = int(self._config.scale_factor_spatial)
        problems: list[str] = []
        if frames % temporal != 1:
            problems.append(f"frames are {frames}: must be {temporal}k + 1, the rest would be lost")
        problems += [
            f"{name} are {size}: must be a multiple of {spatial}"
            for name, size in (("rows", rows), ("columns", columns))
            if size % spatial
        ]
        if problems:
            raise ValueError("Wan's VAE: " + "; ".join(problems))
        return (frames - 1) // temporal + 1, rows // spatial, columns // spatial


class StreamingDecoder:
    """Decoder with a feature cache between pieces: equal to decoding the whole at once."""

    def __init__(self, codec: WanCodec) -> None:
        self._codec = codec
        self._features: list[Tensor | str | None] | None = None

    def __call__(self, latents: Latents) -> Clips:
        """Return the clips of the next latent frames [batch, channels, frames, h, w].

        The first latent frame of a stream makes one picture, every later one four.
        """
        vae = cast(Any, self._codec.vae)
        mean, std = self._codec._statistics()
        hidden = vae.post_quant_conv(latents.to(mean) * std + mean)
        pictures: list[Tensor] = []
        for frame in hidden.split(1, dim=2):
            is_first = self._features is None
            if self._features is None:
                self._features = [None] * vae._cached_conv_counts["decoder"]
            pictures.append(
                vae.decoder(frame, feat_cache=self._features, feat_idx=[0], first_chunk=is_first)
            )
        pixels = torch.cat(pictures, dim=2).float().clamp(-1, 1)
        return ((pixels + 1) / 2).movedim(2, 1).to(latents.device)


def load(folder: Path) -> WanCodec:
    """Return the codec that `WanCodec.save` wrote into `folder`."""
    return _loaded(folder / "codec.json", folder / "codec.safetensors")


def load_published(components: Path) -> WanCodec:
    """Return the VAE of a Wan-Diffusers folder; raises CheckpointError, downloads nothing."""
    return _loaded(components / "vae" / "config.json", components / "vae" / WEIGHTS)


def _loaded(config_file: Path, weights: Path) -> WanCodec:
    try:
        config: Mapping[str, Any] = dict(json.loads(config_file.read_text()))
        packed = stored_dtypes.problem(
            stored_dtypes.of_safetensors(weights), weights, "student.components"
        )
        tensors = {} if packed else load_file(weights)
    except Exception as error:  # a user's file, and a library's choice of classes
        raise CheckpointError(
            f"{weights.parent}: holds no VAE that loads: {error}; nothing is downloaded: put the "
            "vae/ of a Wan-Diffusers checkpoint there, or correct student.components"
        ) from error
    if packed:
        raise CheckpointError(packed)
    if config.get("_class_name", "AutoencoderKLWan") != "AutoencoderKLWan":
        raise CheckpointError(f"{config_file}: is a {config['_class_name']}, not AutoencoderKLWan")
    try:
        with init_empty_weights(include_buffers=False):
            vae: Any = AutoencoderKLWan.from_config(dict(config))
    except Exception as error:  # of whatever class: the sizes are the file's
        raise CheckpointError(f"{config_file}: describes no VAE of Wan: {error}") from error
    load_strictly(vae, tensors, str(weights), "it is another VAE, or only a part of one")
    codec = WanCodec(vae.eval().requires_grad_(False).to(compute_device()))
    if codec._config.patch_size is not None:
        raise CheckpointError(f"{config_file}: Wan2.2's patched VAE is not supported yet")
    statistics = (codec._config.latents_mean, codec._config.latents_std)
    if any(len(values) != codec.channels for values in statistics):
        raise CheckpointError(
            f"{config_file}: latents_mean and latents_std must have z_dim = {codec.channels} values"
        )
    return codec
