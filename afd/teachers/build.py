"""Constructors of local teachers by kind, with late imports."""

from afd.config import DiffusersTeacher, LocalTeacher, PluginTeacher, SimulatorTeacher
from afd.teachers.teacher import Teacher


def build(params: LocalTeacher, num_frames: int, fps: int) -> Teacher:
    """Return the teacher of a campaign's params; a teacher without sizes takes the campaign's."""
    match params:
        case SimulatorTeacher():
            from afd.teachers import simulator

            return simulator.build(params, num_frames, fps)
        case DiffusersTeacher():
            from afd.teachers import pipeline

            return pipeline.build(params)
        case PluginTeacher():
            from afd.teachers import plugin

            return plugin.build(params, num_frames, fps)
