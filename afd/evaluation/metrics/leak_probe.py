"""Leak probe: a linear classifier of the two sides by traces of the path alone.

Its inputs are the same pictures, once by the teacher's path and once by the student's. At chance,
the path leaves nothing that a discriminator could learn instead of motion. A higher accuracy is a
fault of the path, never of a student.

    traces     per channel of YCbCr: edges, second differences and checkerboards (what compression
               takes first), energy on the grid of blocks against between, flat and unmoving pixels,
               the first frame against the rest; of RGB: combs of the histogram and clipped values
    time       where the teacher's rate is not the student's: periods in the size of the steps from
               frame to frame, and how uneven they are
    classifier ridge regression on half of the pictures, tested on the other half, in which each
               picture appears on one side only, so that the hits are independent
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from afd import seeds

Pictures = npt.NDArray[np.uint8]  # [N, F, H, W, 3]
Floats = npt.NDArray[np.float64]

YCBCR = np.array([[0.2126, 0.7152, 0.0722], [-0.1146, -0.3854, 0.5], [0.5, -0.4542, -0.0458]])
GRIDS = (2, 4, 8)  # px: chroma cells, transforms, blocks
PERIODS = (2, 3, 4, 5, 6, 8, 16)  # frames: of 24, 25 and 30 a second at 16, and of held pictures
FLOOR = 0.1  # levels of 255: logs of nothing
RIDGE = 0.01  # of the number of pictures, on standardised traces
CONFIDENCE = 0.99
MIN_PICTURES = 40  # 20 of them are tested


@dataclass(frozen=True)
class Leak:
    """Number of held-out pictures whose side was classified correctly, of all."""

    num_hits: int
    num_pictures: int

    @property
    def accuracy(self) -> float:
        return self.num_hits / self.num_pictures

    @property
    def interval(self) -> tuple[float, float]:
        """Exact binomial interval of the accuracy, 99 %."""
        found = binomtest(self.num_hits, self.num_pictures).proportion_ci(CONFIDENCE, "exact")
        return float(found.low), float(found.high)

    @property
    def is_chance(self) -> bool:
        """True where 0.5 lies inside the interval."""
        low, high = self.interval
        return low <= 0.5 <= high


def probe(teacher: Pictures, student: Pictures, seed: int, *, with_time: bool = False) -> Leak:
    """Train and test the classifier on the same pictures by both paths, in one order.

    `with_time`: on traces of time too, for a teacher whose rate is not the student's. Elsewhere
    both sides show every frame, and the gauge stays what it was.
    Raises ValueError below MIN_PICTURES pictures.
    """
    if teacher.shape != student.shape or len(teacher) < MIN_PICTURES:
        raise ValueError(
            f"{MIN_PICTURES} pictures or more of one shape, not {teacher.shape}, {student.shape}"
        )
    draw = seeds.numpy_generator(seed, "leak")
    order = draw.permutation(len(teacher))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    sides = (traces(teacher), traces(student))
    if with_time:
        rhythms = (rhythm(teacher), rhythm(student))
        sides = tuple(np.hstack(both) for both in zip(sides, rhythms, strict=True))
    training = np.concatenate([sides[0][train], sides[1][train]])
    mean, spread = training.mean(axis=0), training.std(axis=0) + 1e-9
    scaled = (training - mean) / spread
    truth = np.repeat([1.0, -1.0], len(train))
    ridge = RIDGE * len(training) * np.eye(training.shape[1])
    weights = np.linalg.solve(scaled.T @ scaled + ridge, scaled.T @ truth)
    is_teacher = draw.permutation(len(test)) < len(test) / 2
    tested = np.where(is_teacher[:, None], sides[0][test], sides[1][test])
    projection = (tested - mean) / spread @ weights
    # Equal traces score exactly 0: the guess is random.
    guess = np.where(np.abs(projection) < 1e-9, draw.random(len(test)) < 0.5, projection > 0)
    return Leak(int((guess == is_teacher).sum()), len(test))


def traces(pictures: Pictures) -> Floats:
    """Return the traces [N, traces], one picture (a clip) at a time."""
    return np.array([_of_clip(clip) for clip in pictures])


def rhythm(pictures: Pictures) -> Floats:
    """Return the traces of time [N, traces]: how evenly a clip moves from frame to frame."""
    return np.array([_of_steps(clip) for clip in pictures])


def _of_steps(clip: Pictures) -> list[float]:
    """Return the strength of every period in the size of a clip's steps, and their unevenness."""
    light = clip.astype(np.float64) @ YCBCR[0]
    steps = np.log(np.abs(np.diff(light, axis=0)).mean(axis=(1, 2)) + FLOOR)
    steps = steps - steps.mean()
    at = np.arange(len(steps))
    waves = [float(np.abs((steps * np.exp(2j * np.pi * at / each)).mean())) for each in PERIODS]
    return [*waves, float(np.abs(np.diff(steps)).mean())]


def _of_clip(clip: Pictures) -> list[float]:
    colours = clip.astype(np.float64) @ YCBCR.T
    found: list[float] = []
    for channel in np.moveaxis(colours, 3, 0):
        found += _of_channel(channel)
    levels = np.bincount(clip.ravel(), minlength=256) / clip.size
    comb = [
        float(levels[remainder::period].sum())
        for period in (2, 4)
        for remainder in range(1, period)
    ]
    used = levels[levels > 0]
    still = float((np.diff(clip.astype(np.int16), axis=0) == 0).mean())
    clipped = [float(levels[:4].sum()), float(levels[252:].sum())]
    return [*found, *comb, *clipped, still, float(-(used * np.log(used)).sum()), len(used) / 256]


def _of_channel(values: Floats) -> list[float]:
    """Return the traces of one channel [F, H, W]."""
    across, down = np.abs(np.diff(values, axis=2)), np.abs(np.diff(values, axis=1))
    time = np.abs(np.diff(values, axis=0))
    corner = np.abs(np.diff(np.diff(values, axis=1), axis=2))
    second = np.abs(np.diff(values, 2, axis=2))
    found = [_log(part) for part in (across, down, time, corner, second)]
    for size in GRIDS:
        for edges, axis in ((across, 2), (down, 1)):
            on_grid = np.arange(edges.shape[axis]) % size == size - 1
            if on_grid.any():
                on, off = (np.compress(which, edges, axis) for which in (on_grid, ~on_grid))
                found.append(_log(on) - _log(off))
    flat, unmoving = float((across < 0.5).mean()), float((time < 0.5).mean())
    return [*found, flat, unmoving, _log(across[:1]) - _log(across[1:])]


def _log(part: Floats) -> float:
    return float(np.log(part.mean() + FLOOR))
