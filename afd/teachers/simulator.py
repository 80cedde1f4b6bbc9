"""The embedded teacher: a rigid-body simulator that returns a finished mp4.

It has the laws that the student lacks, and renders larger than the student and in another look. The
campaign uses it as any paid teacher: prompt in, video out.
"""

from dataclasses import dataclass

from afd.config import SimulatorTeacher
from afd.teachers.teacher import PromptRefused
from afd.video.encode import encode
from afd.world import build as world
from afd.world.films import film
from afd.world.rendering import Look, to_uint8
from afd.world.scenes import Laws
from afd.world.sentences import SentenceError, parse


@dataclass(frozen=True)
class Simulator:
    """Films sentences of the pocket world's grammar; equal prompt and seed give equal bytes."""

    laws: Laws
    look: Look
    size: int  # px of the mp4, a side
    num_frames: int
    fps: int

    def film(self, prompt: str, seed: int) -> bytes:
        """Return the mp4 of one scene of `prompt`. Errors: PromptRefused outside the grammar."""
        try:
            sentence = parse(prompt)
        except SentenceError as error:
            raise PromptRefused(str(error)) from error
        frames = film(sentence, self.laws, self.look, seed, self.size, self.num_frames)
        return encode(to_uint8(frames), self.fps)


def build(params: SimulatorTeacher, num_frames: int, fps: int) -> Simulator:
    """Return the teacher of a campaign's params."""
    return Simulator(
        laws=world.laws(params.laws),
        look=world.look(params.look),
        size=params.size,
        num_frames=num_frames,
        fps=fps,
    )
