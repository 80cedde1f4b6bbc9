"""The frozen text encoder of the pocket world: words as fixed random vectors, no weights.

    token_i = .5 (word_i + .5 position_i) + 2 sentence
    sentence = sum_j vector("word_j@j") / sqrt(number of words)

Every vector has independent entries of variance 1, drawn from the crc32 of its name, so they are
equal in every process and for ever. Plain word vectors alone were ignored by the student, since
cross-attention averages them away; the sum over word-and-place makes "red at word 3" a direction of
its own in every token, so that which ball has which colour can be read off linearly.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch

from afd.text.encoder import TextError

TEXT_DIM = 64
NUM_TEXT_TOKENS = 24  # the longest sentence of the pocket world has 23 words


@lru_cache(maxsize=4096)
def _vector(name: str, dim: int) -> npt.NDArray[np.float64]:
    """Return a vector of `dim` uniform entries of mean 0 and variance 1, from crc32(name).

    Raw PCG64 words are used, since numpy guarantees the stream of a bit generator for ever but
    not that of its distributions.
    """
    words = np.random.PCG64(zlib.crc32(name.encode())).random_raw(dim)
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return sqrt(12.0) * (unit - 0.5)


@lru_cache(maxsize=4096)
def _encode_one(text: str, num_tokens: int, dim: int) -> npt.NDArray[np.float32]:
    words = text.split()
    if not words or len(words) > num_tokens:
        raise TextError(
            f"prompt {text[:80]!r} has {len(words)} words; the pocket encoder takes 1 to "
            f"{num_tokens} (student.num_text_tokens)"
        )
    bound = [_vector(f"{word}@{place}", dim) for place, word in enumerate(words)]
    sentence = np.sum(bound, axis=0) / sqrt(len(words))
    tokens = np.zeros((num_tokens, dim))
    for place, word in enumerate(words):
        token = _vector(word, dim) + 0.5 * _vector(f"@{place}", dim)
        tokens[place] = 0.5 * token + 2.0 * sentence
    encoded = tokens.astype(np.float32)
    encoded.flags.writeable = False
    return encoded


def encode(
    texts: Sequence[str], num_tokens: int = NUM_TEXT_TOKENS, dim: int = TEXT_DIM
) -> torch.Tensor:
    """Text tokens [B, num_tokens, dim] float32, zero rows after the last word, no mask.

    Errors: TextError for a prompt without words or with more than `num_tokens`.
    """
    if not texts:
        return torch.zeros(0, num_tokens, dim)
    return torch.from_numpy(np.stack([_encode_one(text, num_tokens, dim) for text in texts]))


@dataclass(frozen=True, slots=True)
class Words:
    """`encode` as a TextEncoder."""

    num_tokens: int
    dim: int

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        return encode(prompts, self.num_tokens, self.dim)
