"""What every teacher is to the method: a black box from prompt to finished video."""

from typing import Protocol


class Teacher(Protocol):
    """Prompt in, finished video out: no gradients, no scores, no latents, no noise."""

    def film(self, prompt: str, seed: int) -> bytes:
        """The bytes of one mp4 of `prompt`. `seed` asks for another take where a teacher can.

        Errors: ValueError when this teacher cannot film this prompt at all.
        """
        ...
