"""A teacher is a black box: prompt in, finished video out. Nothing else is asked of it.

No scores, no latents, no gradients: any paid API, local pipeline or folder of clips can be one.
Answers are the bytes of one mp4, validated by whoever stores them (afd/video/decode.py).
"""

from typing import Protocol


class PromptRefused(ValueError):
    """The teacher will not film this prompt; asking again with it cannot help."""


class Teacher(Protocol):
    """Anything that films a prompt."""

    def film(self, prompt: str, seed: int) -> bytes:
        """One finished mp4. Equal prompt and seed give equal bytes where the teacher can.

        Errors: PromptRefused for a prompt that it does not film.
        """
        ...
