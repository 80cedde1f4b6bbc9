"""Local teachers of other packages."""

from typing import cast

from afd.config import PluginTeacher
from afd.plugins import check_members, load_factory
from afd.teachers.teacher import Teacher

FIELD = "teacher.factory"


def build(params: PluginTeacher, num_frames: int, fps: int) -> Teacher:
    """Return `factory(options, num_frames, fps)` with the campaign's frames and rate.

    Raises PluginError when the plugin is missing, cannot be imported or returns something else.
    """
    teacher = load_factory(FIELD, params.factory)(dict(params.options), num_frames, fps)
    check_members(FIELD, params.factory, teacher, ("film",))
    return cast(Teacher, teacher)
