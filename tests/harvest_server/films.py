"""The vendor's videos: real mp4 files, filmed by the simulator so that a campaign can learn."""

from dataclasses import dataclass, replace
from functools import cache

from afd.config import SimulatorTeacher
from afd.teachers import simulator
from afd.teachers.teacher import PromptRefused

# The pocket campaign's teacher (params/pocket.yaml).
TEACHER = SimulatorTeacher.model_validate(
    {
        "kind": "simulator",
        "laws": {
            "gravity": {"low": 0.15, "high": 0.15},
            "restitution": {"low": 0.7, "high": 0.7},
            "velocity_jitter": 0.0,
            "collide": 1.0,
        },
        "look": {
            "contrast": {"low": 0.5, "high": 0.9},
            "background": {"low": 0.15, "high": 0.25},
            "grain": 0.15,
        },
        "size": 64,
        "clips_per_prompt": 3,
        "training_permitted": "yes",
    }
)
SOME_PROMPT = "a small red ball starts high on the left and moves quickly to the right"


@dataclass(frozen=True)
class Format:
    """What the vendor's encoder makes."""

    size: int = 64
    num_frames: int = 16
    fps: int = 16


@cache
def film(prompt: str, seed: int, shape: Format = Format()) -> bytes:
    """The mp4 of `prompt`; a prompt outside the pocket grammar gets some other scene."""
    camera = simulator.build(TEACHER, shape.num_frames, shape.fps)
    camera = replace(camera, size=shape.size)
    try:
        return camera.film(prompt, seed)
    except PromptRefused:
        return camera.film(SOME_PROMPT, seed)
