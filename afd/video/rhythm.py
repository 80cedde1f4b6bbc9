"""Rhythm of both sides' clips: only pictures at instants that both rates have.

A teacher of 24 frames a second, sampled at the student's 16, moves by one and by two of its frames
in turn; a rollout moves evenly. That alone told the sides apart in every clip. So both show only
pictures of instants that both rates have, here 8 a second, and each is held until the next one:

    teacher, 24 a second    0  .  .  3  .  .  6  .  .   ->  0 0 3 3 6 6
    rollout, 16 a second    0    1    2    3    4   ..  ->  0 0 2 2 4 4
"""

from collections.abc import Iterable
from fractions import Fraction

FEWEST = 4  # pictures of a clip: with fewer no motion is left to judge
NTSC = 0.0015  # 23.976 and 29.97 are a thousandth below a whole rate


def frames_held(rate: float, fps: int) -> int:
    """Return how many of a student's frames lie between two instants that both rates have."""
    whole = round(rate)
    is_whole = whole > 0 and abs(rate - whole) <= NTSC * rate
    nominal = Fraction(whole) if is_whole else Fraction(rate).limit_denominator(1000)
    return (nominal / fps).denominator


def hold_for(rate: float, fps: int, num_frames: int) -> int:
    """Return for how many frames both sides hold a picture; 1: every frame is shown.

    Also 1 where fewer than `FEWEST` pictures would be left: there the rhythm stays.
    """
    held = frames_held(rate, fps)
    return held if -(-num_frames // held) >= FEWEST else 1


def held(indices: Iterable[int], hold: int) -> list[int]:
    """Return the picture that each frame shows; the first index is a multiple of `hold`."""
    return [index - index % hold for index in indices]


def rhythm_note(rate: float, fps: int, num_frames: int) -> str | None:
    """Return in words what is lost to a teacher's rate; None where nothing is."""
    between = frames_held(rate, fps)
    if between == 1:
        return None
    rates = f"teacher.fps {rate:g} and fps {fps} meet {fps / between:.3g} times a second"
    cure = f"at a teacher.fps of {fps} or {2 * fps} every frame is judged"
    if hold_for(rate, fps, num_frames) == 1:
        few = -(-num_frames // between)
        return f"{rates}, in {few} pictures of a clip: too few, its rhythm names the side; {cure}"
    return f"{rates}: both sides show those pictures alone, each for {between} frames; {cure}"
