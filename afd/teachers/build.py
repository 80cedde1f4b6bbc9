"""Constructors of local teachers by kind, with late imports."""

from afd.config import DiffusersTeacher, SimulatorTeacher
from afd.teachers.teacher import Teacher


def build(params: SimulatorTeacher | DiffusersTeacher, num_frames: int, fps: int) -> Teacher:
    """Return the teacher of a campaign's params; a teacher without sizes takes the campaign's."""
    match params:
        case SimulatorTeacher():
            from afd.teachers import simulator

            return simulator.build(params, num_frames, fps)
        case DiffusersTeacher():
            from afd.teachers import pipeline

            return pipeline.build(params)
