"""Metrics of clips of any subject and size, from pixels alone, without weights.

Every metric is [N] float64. Drift is from the first quarter of the frames to the last: in a
causal student's typical failure, colour, exposure and sharpness change with time. The physics of
real videos is measured by external programs (afd/evaluation/external.py).
"""

import numpy as np
import numpy.typing as npt

VERSION = 1  # enters the evaluation card; raise it when a definition below changes
STILL = 1 / 255  # mean change of a pixel from frame to frame, below which nothing moves
SAME = 0.5 / 255  # largest change of a pixel between two frames that are one
SMALLEST_CHANGE = 1e-4  # of the median, so that a still clip with one cut is not infinite

Floats = npt.NDArray[np.float64]
Clips = npt.NDArray[np.float32]

NAMES = (
    "frame_change",
    "static_clip",
    "repeated_frames",
    "brightness_flicker",
    "largest_jump",
    "edge_sharpness",
    "sharpness_drift",
    "exposure_drift",
    "colour_drift",
)


def measure(clips: Clips) -> dict[str, Floats]:
    """Return all metrics of NAMES for finite clips [N, F, 3, H, W] in [0, 1], F >= 4.

    Raises ValueError for other shapes.
    """
    if clips.ndim != 5 or clips.shape[2] != 3 or clips.shape[1] < 4:
        raise ValueError(f"clips must be [N, F >= 4, 3, H, W], not {clips.shape}")
    rows = [_of_one(clip) for clip in clips]
    return {name: np.array([row[place] for row in rows]) for place, name in enumerate(NAMES)}


def _of_one(clip: npt.NDArray[np.float32]) -> tuple[float, ...]:
    change = np.abs(np.diff(clip, axis=0))  # [F - 1, 3, H, W]
    moved = change.mean(axis=(1, 2, 3), dtype=np.float64)
    colours = clip.mean(axis=(2, 3), dtype=np.float64)  # [F, 3]
    brightness = colours.mean(axis=1)
    edges = _sharpness(clip)
    first, last = slice(0, len(clip) // 4), slice(-(len(clip) // 4), None)
    start = edges[first].mean()
    return (
        float(moved.mean()),
        float(moved.mean() < STILL),
        float((change.max(axis=(1, 2, 3)) < SAME).mean()),
        float(np.abs(np.diff(brightness, n=2)).mean()),
        float(moved.max() / max(float(np.median(moved)), SMALLEST_CHANGE)),
        float(edges.mean()),
        float(edges[last].mean() / start - 1) if start > 0 else 0.0,
        float(abs(brightness[last].mean() - brightness[first].mean())),
        float(np.linalg.norm(_hue(colours[last]) - _hue(colours[first]))),
    )


def _sharpness(clip: npt.NDArray[np.float32]) -> Floats:
    """Return the mean difference of neighbouring pixels of each frame, [F]."""
    across = np.abs(np.diff(clip, axis=3)).mean(axis=(1, 2, 3), dtype=np.float64)
    down = np.abs(np.diff(clip, axis=2)).mean(axis=(1, 2, 3), dtype=np.float64)
    return (across + down) / 2


def _hue(colours: Floats) -> Floats:
    """Return the mean colour minus its brightness, [3]."""
    mean = colours.mean(axis=0)
    return mean - mean.mean()
