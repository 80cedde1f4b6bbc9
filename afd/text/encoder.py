"""The interface of a student's text encoder, and its error."""

from collections.abc import Sequence
from typing import Protocol

from afd.errors import InputError
from afd.latents import Text


class TextError(InputError):
    """A prompt that an encoder cannot represent."""


class TextEncoder(Protocol):
    """Prompts -> [batch, num_tokens, dim] float32, zero rows after the last token, no mask."""

    @property
    def num_tokens(self) -> int:
        """Rows of every prompt."""
        ...

    @property
    def dim(self) -> int:
        """Numbers in a row."""
        ...

    def __call__(self, prompts: Sequence[str]) -> Text:
        """Encode; raises TextError for a prompt that does not fit."""
        ...
