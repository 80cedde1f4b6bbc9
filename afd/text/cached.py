"""Encoded prompts on disk, by hash: a large text encoder runs once per prompt."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from afd.text.encoder import TextError
from afd.text.umt5 import Umt5


class CachedText:
    """A TextEncoder over the prompts of one file, in float32, padded with zero rows."""

    def __init__(self, file: Path, num_tokens: int) -> None:
        self.file = file
        self.num_tokens = num_tokens
        with safe_open(file, framework="pt") as file_content:
            self.dim = int((file_content.metadata() or {})["dim"])
            self._known = frozenset(file_content.keys())

    def knows(self, prompt: str) -> bool:
        """Return True for a prompt that was encoded."""
        return key_of(prompt) in self._known

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """[batch, num_tokens, dim]; raises TextError naming prompts that were never encoded."""
        strange = [prompt for prompt in prompts if key_of(prompt) not in self._known]
        if strange:
            raise TextError(
                f"{self.file}: {len(strange)} prompt(s) were not in the prompt set when the "
                f"student was started, such as {strange[0][:60]!r}; start it with those prompts"
            )
        encoded = torch.zeros(len(prompts), self.num_tokens, self.dim)
        with safe_open(self.file, framework="pt") as file_content:
            for row, prompt in enumerate(prompts):
                tokens = file_content.get_tensor(key_of(prompt))
                encoded[row, : len(tokens)] = tokens.float()
        return encoded


def save_encoded(encoder: Umt5, prompts: Iterable[str], file: Path) -> int:
    """Encode each different prompt once into `file`; return their number."""
    different = sorted(set(prompts))
    rows = encoder.rows(different)
    tensors = {
        key_of(prompt): row.contiguous() for prompt, row in zip(different, rows, strict=True)
    }
    save_file(tensors, file, metadata={"dim": str(encoder.dim)})
    return len(different)


def key_of(prompt: str) -> str:
    """Return the key of a prompt's entry."""
    return hashlib.sha256(prompt.encode()).hexdigest()
