"""A small prompt-conditioned convolutional discriminator for the pocket world.

Time enters as channels, so motion is visible to the first layer; input noise and pooling keep it
from winning on pixels. Both sides of a pair must come through one decode and resize path before.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, layer_norm, leaky_relu

from afd import row_draws
from afd.config import ConvDiscriminator as ConvParams
from afd.config import rows_and_columns
from afd.discriminators.discriminator import Setting, TextEncoder
from afd.latents import Clips, Scores, Text

POOL = 2  # pixels a side; finer detail is look, not motion
SLOPE = 0.2  # of the leaky ReLUs, as in DCGAN
SMALLEST_DEVIATION = 0.01  # of a clip's pixels: an empty clip must not be amplified into noise


class ConvDiscriminator(nn.Module):
    """Scores clips [batch, frames, 3, rows, columns] under prompts [batch, tokens, text_dim].

    Every pass draws its own contrast, brightness and noise from the generator handed in; a score
    is the mean over `num_passes` passes. Noise and brightness are in pixels or, when clips are
    standardised (`normalise`), in standard deviations of the clip, about 6 times smaller.
    """

    precision: torch.dtype = torch.float32
    penalty_step: float | None = None
    micro_batch: int | None = None

    def __init__(self, params: ConvParams, setting: Setting, encode: TextEncoder) -> None:
        super().__init__()
        self.params = params
        self.encode = encode
        width = params.width
        rows, columns = (side // POOL for side in rows_and_columns(setting.frame_size))
        for _ in range(2):
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        self.frames = nn.Conv2d(3 * setting.num_frames, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.last = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.features = nn.Linear(width * rows * columns, width)
        self.prompt = nn.Linear(setting.text_dim, width)
        self.head = nn.Linear(width, 1)

    def read(self, prompts: Sequence[str]) -> Text:
        """Return the student's own text tokens."""
        return self.encode(prompts)

    def see(self, clips: Clips) -> Clips:
        """Pixels as they are."""
        return clips

    def score(self, seen: Clips, text: Text, generator: Generator) -> Scores:
        """Mean score over num_passes noisy passes; differentiable in weights and clips."""
        prompt = self.prompt(pooled(text))
        passes = [self._pass(seen, prompt, generator) for _ in range(self.params.num_passes)]
        return torch.stack(passes).mean(dim=0)

    def forward(self, seen: Clips, text: Text, generator: Generator) -> Scores:
        """One noisy pass: what training uses."""
        return self._pass(seen, self.prompt(pooled(text)), generator)

    def _pass(self, clips: Clips, prompt: Tensor, generator: Generator) -> Scores:
        hidden = self._disturbed(avg_pool2d(clips.flatten(1, 2), POOL), generator)
        for layer in (self.frames, self.middle, self.last):
            hidden = leaky_relu(layer(hidden), SLOPE)
        hidden = leaky_relu(self.features(hidden.flatten(1)), SLOPE)
        # projection discriminator (Miyato & Koyama, arXiv:1802.05637): prompt-free + prompt-bound
        return self.head(hidden)[:, 0] + (prompt * hidden).sum(dim=1) / hidden.shape[1] ** 0.5

    def _disturbed(self, pooled_clips: Tensor, generator: Generator) -> Tensor:
        """Standardise, then change contrast and brightness, then add noise; all after pooling.

        Pooling first is 4 times cheaper and the same in distribution: the mean of POOL**2 pixels
        with independent noise carries noise / POOL.
        """
        params = self.params
        if params.normalise:
            shape = pooled_clips.shape[1:]
            pooled_clips = layer_norm(pooled_clips, shape, eps=SMALLEST_DEVIATION**2)
        shape = (len(pooled_clips), 1, 1, 1)
        contrast = _uniform(shape, params.contrast.low, params.contrast.high, generator)
        offset = _uniform(shape, params.brightness.low, params.brightness.high, generator)
        noise = row_draws.normal(pooled_clips.shape, generator)
        return pooled_clips * contrast + (offset + params.noise / POOL * noise)


def build(
    params: ConvParams, setting: Setting, encode: TextEncoder, generator: Generator
) -> ConvDiscriminator:
    """Build a fresh discriminator, initialised from `generator` alone."""
    # torch's own initialisation draws globally
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        model = ConvDiscriminator(params, setting, encode)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, a=SLOPE, generator=generator)
                cast(Tensor, layer.bias).zero_()
    return model


def pooled(text: Text) -> Tensor:
    """Mean over the tokens that are not padding, [batch, text_dim]."""
    present = text.abs().amax(dim=2, keepdim=True) > 0
    return text.sum(dim=1) / present.sum(dim=1).clamp_min(1)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * row_draws.uniform(shape, generator)
