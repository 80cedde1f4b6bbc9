"""Detection of clips without content: black, flat, frozen or nearly static.

A vendor may deliver a valid file with nothing in it. Every frame is sampled on a grid of about
64 x 64 points. The thresholds are levels of 255, so that they hold for every codec.
"""

import hashlib
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.plane import VideoPlane

Points = npt.NDArray[np.uint8]
Flag = Literal["black", "flat", "frozen", "near_static", "stalling"]

POINTS = 64  # on the shorter side
BLACK = 24  # limited range: black is 16
FLAT = 2.0  # standard deviation of one picture
CODING_NOISE = 6  # a still picture, coded, moves by less
MOVED = 12  # a point that changed
FEW = 0.002  # of all points: a ball of 2 px on 64 x 64 crosses ten times as many
MOST = 0.9  # of the frames
BATCH = 16  # frames at once: for 64 x 64, calls cost more than arithmetic
STALLED = 0.6  # of the steps: 12 frames a second played at 24 repeat half of them


class Content:
    """Statistics of a clip, frame by frame: `add` each frame, then read `flags()` and `sha256`.

    The hash is over all decoded planes: an encoder's container and tags do not change it.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._waiting: list[Points] = []  # of the last frames, not yet counted
        self._first: Points | None = None
        self._before: Points | None = None
        self._moved: Points | None = None
        self._num_frames = self._num_black = self._num_flat = self._num_repeated = 0

    def add(self, frame: av.VideoFrame) -> None:
        """Add the next frame, planar YUV of 8 bits, as large as the frames before."""
        self._digest.update(f"{frame.format.name} {frame.width}x{frame.height}".encode())
        luma, *chroma = (_pixels(plane) for plane in frame.planes)
        for rows in (luma, *chroma):
            self._digest.update(rows.tobytes())
        step = max(1, min(luma.shape) // POINTS)
        self._waiting.append(luma[step // 2 :: step, step // 2 :: step].copy())
        if len(self._waiting) == BATCH:
            self._count()

    def _count(self) -> None:
        """Take the waiting frames into the counts, in exact arithmetic on whole numbers."""
        if not self._waiting:
            return
        points = np.stack(self._waiting)
        self._waiting.clear()
        first, moved = self._first, self._moved
        if first is None or self._before is None or moved is None:
            self._first = first = points[0]
            self._moved = moved = np.zeros_like(first)
            steps = points
        else:
            steps = np.concatenate([self._before[None], points])
        self._before = points[-1]
        size, levels = points[0].size, points.reshape(len(points), -1)
        lit = np.count_nonzero(levels > BLACK, axis=1)
        total = levels.sum(axis=1, dtype=np.int64)
        squares = (levels.astype(np.uint16) ** 2).sum(axis=1, dtype=np.int64)
        self._num_frames += len(points)
        self._num_black += int((lit / size < FEW).sum())
        self._num_flat += int((size * squares - total**2 < FLAT**2 * size**2).sum())
        changed = _distance(steps[1:], steps[:-1]).max(axis=(1, 2))
        self._num_repeated += int((changed <= CODING_NOISE).sum())
        np.maximum(moved, _distance(points, first).max(axis=0), out=moved)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def flags(self) -> tuple[Flag, ...]:
        """Return the faults of the clip, the worst first; () where something in it moves."""
        self._count()
        found: list[Flag] = []
        if self._moved is None or not self._num_frames:
            return ()
        if self._num_black >= MOST * self._num_frames:
            found.append("black")
        elif self._num_flat >= MOST * self._num_frames:
            found.append("flat")
        if self._moved.max() <= CODING_NOISE:
            found.append("frozen")
        elif float((self._moved > MOVED).mean()) < FEW:
            found.append("near_static")
        elif self._num_repeated > STALLED * (self._num_frames - 1):
            found.append("stalling")
        return tuple(found)


def _pixels(plane: VideoPlane) -> Points:
    rows = np.frombuffer(memoryview(plane), np.uint8)  # pyright: ignore[reportArgumentType]
    return rows.reshape(plane.height, plane.line_size)[:, : plane.width]


def _distance(one: Points, other: Points) -> Points:
    """Return the number of levels between two pictures, point by point."""
    return np.maximum(one, other) - np.minimum(one, other)
