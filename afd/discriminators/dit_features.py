"""Small heads on chosen blocks of a frozen, bidirectional Wan: a discriminator in latent space.

Both sides reach it as pixels and are encoded by one VAE here, so that latents that came from a file
and latents that came from a student have gone the same way. Wan reads the prompt itself, by its
cross-attention; features are taken at chosen noise levels (cf. LADD, arXiv:2403.12015).
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import silu

from afd import row_draws
from afd.config import DitFeaturesDiscriminator as DitParams
from afd.device import compute_device
from afd.discriminators.backbones import BackboneError, found, loading, refuse_unsound
from afd.discriminators.discriminator import Setting, TextEncoder
from afd.latents import Clips, Latents, Scores, Text

FIELD = "discriminator.backbone"
WHAT = "a Wan-Diffusers folder (Wan-AI/Wan2.1-T2V-1.3B-Diffusers)"
FILES = tuple(
    f"{part}/{file}" for part in ("transformer", "vae") for file in ("config.json", "*.safetensors")
)


class Head(nn.Module):
    """One block's features [N, tokens, width] -> [N]: a learned query gathers, an MLP judges."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.keys = nn.Linear(width, head_width)
        self.values = nn.Linear(width, head_width)
        self.query = nn.Parameter(torch.zeros(head_width))
        self.middle = nn.Linear(head_width, head_width)
        self.last = nn.Linear(head_width, 1)

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.norm(features.float())
        logits = self.keys(tokens) @ self.query / math.sqrt(len(self.query))
        gathered = (logits.softmax(dim=1)[..., None] * self.values(tokens)).sum(dim=1)
        return self.last(silu(self.middle(silu(gathered))))[:, 0]


class DitFeatures(nn.Module):
    """Scores latents [N, C, T, h, w] under the student's text tokens; only the heads train."""

    def __init__(self, params: DitParams, wan: Any, vae: Any, encode: TextEncoder) -> None:
        super().__init__()
        self.params = params
        self.wan = wan
        self.vae = vae
        self.encode = encode
        width = wan.config.num_attention_heads * wan.config.attention_head_dim
        self.heads = nn.ModuleList([Head(width, params.head_width) for _ in params.layers])

    @property
    def precision(self) -> torch.dtype:
        return self.wan.dtype

    @property
    def penalty_step(self) -> float | None:
        return self.params.penalty_step

    @property
    def micro_batch(self) -> int | None:
        return self.params.micro_batch

    def read(self, prompts: Sequence[str]) -> Text:
        """Return the student's own text tokens, which are Wan's."""
        return self.encode(prompts)

    @torch.no_grad()
    def see(self, clips: Clips) -> Latents:
        """Clips through the VAE's encoder, normalised by its published statistics."""
        config = self.vae.config
        mean, deviation = (
            torch.tensor(values)[:, None, None, None]
            for values in (config.latents_mean, config.latents_std)
        )
        latents: list[Tensor] = []
        for part in clips.split(self.params.micro_batch):
            pixels = (2 * part.movedim(1, 2) - 1).to(self.vae.device, self.vae.dtype)
            latents.append(self.vae.encode(pixels).latent_dist.mode().float().cpu())
        return (torch.cat(latents) - mean) / deviation

    @torch.no_grad()
    def score(self, seen: Latents, text: Text, generator: Generator) -> Scores:
        """As a training pass, `micro_batch` rows at a time; each part draws its own noise."""
        size = self.params.micro_batch
        pairs = zip(seen.split(size), text.split(size), strict=True)
        return torch.cat([self(part, words, generator) for part, words in pairs])

    def forward(self, seen: Latents, text: Text, generator: Generator) -> Scores:
        """Mean over noise levels and blocks, back where `seen` is; noise wherever t > 0."""
        given, device = seen.device, next(self.heads.parameters()).device
        seen, text = seen.to(device), text.to(device, self.wan.dtype)
        scores: list[Tensor] = []
        for t in self.params.times:
            noisy = seen
            if t:
                noise = row_draws.normal(seen.shape, generator).to(device)
                noisy = (1 - t) * seen + t * noise
            features = self.features(noisy, torch.full((len(seen),), 1000 * t), text)
            scores += [head(found) for head, found in zip(self.heads, features, strict=True)]
        return torch.stack(scores).mean(dim=0).to(given)

    def features(self, noisy: Latents, timestep: Tensor, text: Text) -> list[Tensor]:
        """Tokens [N, tokens, width] after each chosen block of stock Wan; later ones never run."""
        wan = self.wan
        rotation = wan.rope(noisy)
        hidden = wan.patch_embedding(noisy.to(wan.dtype)).flatten(2).transpose(1, 2).contiguous()
        _, modulation, embedded, _ = wan.condition_embedder(timestep.to(hidden.device), text, None)
        modulation = modulation.unflatten(1, (6, -1))
        taken: list[Tensor] = []
        for number, block in enumerate(wan.blocks):
            inputs = (block, hidden, embedded, modulation, rotation)
            if torch.is_grad_enabled() and wan.gradient_checkpointing:
                hidden = wan._gradient_checkpointing_func(self._through, *inputs)
            else:
                hidden = self._through(*inputs)
            if number in self.params.layers:
                taken.append(hidden)
        return taken

    def _through(self, block: Any, *inputs: Any) -> Tensor:
        """One block; the exact R1 needs a second derivative, which only plain attention has."""
        plain = self.penalty_step is None and torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH) if plain else contextlib.nullcontext():
            return block(*inputs)


def look(params: DitParams) -> None:
    """Raise BackboneError for files that are missing or no plain floats."""
    found(params.backbone, FILES, FIELD, WHAT)


def build(
    params: DitParams, setting: Setting, encode: TextEncoder, generator: Generator
) -> DitFeatures:
    """Frozen Wan and VAE from their folder, fresh heads. Raises BackboneError."""
    path = found(params.backbone, FILES, FIELD, WHAT)
    loaded: list[Any] = []
    for part, kind in (("transformer", WanTransformer3DModel), ("vae", AutoencoderKLWan)):
        with loading(FIELD, path / part), torch.random.fork_rng(devices=[]):
            model, loading_info = cast(Any, kind).from_pretrained(
                path / part,
                dtype=getattr(torch, params.dtype),
                local_files_only=True,
                output_loading_info=True,
            )
        refuse_unsound(FIELD, path / part, model, loading_info)
        loaded.append(cast(Any, model).eval().requires_grad_(False))
    wan, vae = loaded
    _refuse_misfits(params, setting, wan, path)
    del wan.blocks[params.layers[-1] + 1 :]
    wan.norm_out, wan.proj_out = nn.Identity(), nn.Identity()
    if params.gradient_checkpointing:
        wan.enable_gradient_checkpointing()
    with torch.random.fork_rng(devices=[]):
        discriminator = DitFeatures(params, wan, vae, encode)
    with torch.no_grad():
        for name, parameter in discriminator.heads.named_parameters():
            if parameter.ndim == 2:
                nn.init.kaiming_normal_(parameter, generator=generator)
            elif name.endswith("query"):
                nn.init.normal_(parameter, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
    return discriminator.to(compute_device())


def _refuse_misfits(params: DitParams, setting: Setting, wan: Any, path: Any) -> None:
    """Raise BackboneError when the folder's Wan is not one that the campaign's params describe."""
    problems: list[str] = []
    highest, last = params.layers[-1], len(wan.blocks) - 1
    if highest > last:
        problems.append(f"discriminator.layers has {highest}: the last block is {last}")
    if wan.config.text_dim != setting.text_dim:
        problems.append(f"text_dim {wan.config.text_dim}: the student's is {setting.text_dim}")
    if wan.config.image_dim is not None:
        problems.append("it is an image-to-video Wan")
    if problems:
        raise BackboneError(f"{FIELD}: {path} does not fit: {'; '.join(problems)}")
