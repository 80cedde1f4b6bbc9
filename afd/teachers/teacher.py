"""Interface of a local teacher, a black box: prompt in, finished video out.

No scores, no latents, no gradients: any paid API, local pipeline or folder of clips can be one.
The result is the bytes of one mp4; the caller validates them (afd/video/decode.py).
"""

from typing import Protocol

from afd.errors import InputError


class PromptRefused(InputError):
    """The teacher refuses this prompt; a retry cannot help."""


class Teacher(Protocol):
    """A teacher that makes a video of a prompt."""

    def film(self, prompt: str, seed: int) -> bytes:
        """Return one finished mp4; equal prompt and seed give equal bytes if the teacher can.

        Errors: PromptRefused for a refused prompt.
        """
        ...
