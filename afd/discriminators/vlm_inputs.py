"""Inputs of Qwen2-VL: frames cut into its patches, and the question as token ids.

Both are plain tensors with a row a clip or a prompt, made once; the layout of patches is that of
Qwen2-VL's own processor (pairs of frames, merged squares of patches side by side).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from afd.errors import InputError
from afd.latents import Clips

# Qwen2-VL's chat form with one video; the question follows the film.
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{film}<|vision_end|>{question}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
FILM = "<|video_pad|>"


class PromptTooLongError(InputError):
    """A caption that does not fit into the discriminator's room for text."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The patches of clips: sizes of the vision tower and of the frames it takes."""

    num_frames: int
    rows: int  # px of a frame after resizing
    columns: int
    patch: int  # px, a side
    merge: int  # patches a side that become one token
    temporal: int  # frames in a patch
    mean: tuple[float, ...]  # of each channel
    deviation: tuple[float, ...]

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches over time, rows and columns."""
        return (
            self.num_frames // self.temporal,
            self.rows // self.patch,
            self.columns // self.patch,
        )

    @property
    def num_tokens(self) -> int:
        """Video tokens of one clip."""
        frames, rows, columns = self.grid
        return frames * rows * columns // self.merge**2

    def patches(self, clips: Clips) -> Tensor:
        """Clips [N, F, 3, H, W] in [0, 1] -> normalised patches [N, patches, values of a patch]."""
        at = torch.linspace(0, clips.shape[1] - 1, self.num_frames).round().long()
        frames = clips[:, at]
        resized = interpolate(
            frames.flatten(0, 1),
            size=(self.rows, self.columns),
            mode="bicubic",
            antialias=True,
            align_corners=False,
        ).clamp(0, 1)
        mean, deviation = (torch.tensor(v)[:, None, None] for v in (self.mean, self.deviation))
        pixels = ((resized - mean) / deviation).unflatten(0, frames.shape[:2])
        times, rows, columns = self.grid
        side, merge = self.patch, self.merge
        cut = pixels.reshape(
            len(clips), times, self.temporal, 3,
            rows // merge, merge, side, columns // merge, merge, side,
        )  # fmt: skip
        # -> clip, time, row, column, row and column in the merged square, channel, frame, pixel
        return cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).flatten(6).flatten(1, 5)


def fitted(rows: int, columns: int, most_pixels: int, multiple: int) -> tuple[int, int]:
    """Return resized rows and columns: one shape, multiples of `multiple`, within `most_pixels`."""
    shrink = min(1.0, (most_pixels / (rows * columns)) ** 0.5)
    sides = [max(multiple, int(side * shrink) // multiple * multiple) for side in (rows, columns)]
    return sides[0], sides[1]


def token_ids(
    tokenizer: Any, question: str, prompts: Sequence[str], num_tokens: int, num_film_tokens: int
) -> Tensor:
    """Return the chat of each prompt as ids [B, num_tokens + num_film_tokens], padded on the right.

    Raises PromptTooLongError naming the caption and how many tokens there are.
    """
    width = num_tokens + num_film_tokens
    rows = torch.full((len(prompts), width), tokenizer.pad_token_id, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        filled = question.replace("{prompt}", _plain(prompt))
        chat = CHAT.replace("{question}", filled).replace("{film}", FILM * num_film_tokens)
        ids: list[int] = tokenizer(chat, add_special_tokens=False)["input_ids"]
        if len(ids) > width:
            raise PromptTooLongError(
                f"prompt {prompt[:80]!r} makes a question of {len(ids) - num_film_tokens} tokens; "
                f"discriminator.num_text_tokens is {num_tokens}: raise it or shorten the prompt"
            )
        rows[row, : len(ids)] = torch.tensor(ids)
    return rows


def _plain(prompt: str) -> str:
    """Remove the chat's own tokens from a caption."""
    return prompt.replace("<|", "< |")
