"""Teachers that film here, by kind; each pays its own imports."""

from afd.config import DiffusersTeacher, SimulatorTeacher
from afd.teachers.teacher import Teacher


def build(params: SimulatorTeacher | DiffusersTeacher, num_frames: int, fps: int) -> Teacher:
    """The teacher of a campaign's params; sizes are the campaign's where it has none of its own."""
    match params:
        case SimulatorTeacher():
            from afd.teachers import simulator

            return simulator.build(params, num_frames, fps)
        case DiffusersTeacher():
            from afd.teachers import pipeline

            return pipeline.build(params)
