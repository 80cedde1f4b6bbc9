"""The embedded teacher: a rigid-body simulator that answers with a finished mp4.

It keeps the black box honest: it films larger than the student sees, through H.264, and in a look
of its own; whoever uses it gets bytes and nothing else.
"""

from dataclasses import dataclass

from afd.config import SimulatorTeacher
from afd.data.encoding import encode
from afd.world import build as world
from afd.world.films import film
from afd.world.rendering import Look, to_uint8
from afd.world.scenes import Laws
from afd.world.sentences import parse


@dataclass(frozen=True)
class Simulator:
    """Films sentences of the pocket world's grammar; equal prompt and seed, equal bytes."""

    laws: Laws
    look: Look
    size: int  # px of the mp4, a side
    num_frames: int
    fps: int

    def film(self, prompt: str, seed: int) -> bytes:
        """Errors: SentenceError for a prompt that is not of the grammar."""
        frames = film(parse(prompt), self.laws, self.look, seed, self.size, self.num_frames)
        return encode(to_uint8(frames), self.fps)


def build(params: SimulatorTeacher, num_frames: int, fps: int) -> Simulator:
    """The teacher of a campaign's params."""
    return Simulator(
        laws=world.laws(params.laws),
        look=world.look(params.look),
        size=params.size,
        num_frames=num_frames,
        fps=fps,
    )
