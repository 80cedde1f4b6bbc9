"""The strictest canonical clip of a size, and bytes taken to it: what many tests need."""

import numpy as np

from afd.config import CanonicalParams
from afd.video.canonical import CanonicalFormat, conform
from afd.video.decode import open_clip

STRICT = CanonicalParams(
    magnify=4, crf=12, qp=20, chroma="444", longer="refuse", shorter="refuse", aspect="refuse"
)


def canon(frame_size: int = 16, num_frames: int = 16, **policy: object) -> CanonicalFormat:
    return CanonicalFormat(STRICT.model_copy(update=policy), num_frames, frame_size, fps=16)


def floats(video: bytes, frame_size: int = 16, num_frames: int = 16) -> np.ndarray:
    """[F, 3, S, S] in [0, 1]."""
    with open_clip(video) as clip:
        frames = conform(clip.frames(), canon(frame_size, num_frames))
    return frames.transpose(0, 3, 1, 2).astype(np.float32) / 255
