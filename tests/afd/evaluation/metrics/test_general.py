"""General metrics against films whose answer is known."""

import numpy as np
import pytest

from afd.evaluation.metrics import general
from afd.evaluation.metrics.general import Clips

FRAMES, ROWS, COLUMNS = 16, 24, 40


def picture(seed: int = 0) -> Clips:
    return np.random.default_rng(seed).random((3, ROWS, COLUMNS)).astype(np.float32)


def film(frames: list[Clips]) -> dict[str, float]:
    measured = general.measure(np.stack(frames)[None].astype(np.float32))
    assert tuple(measured) == general.NAMES
    return {name: float(values[0]) for name, values in measured.items()}


def test_a_still_film_is_still() -> None:
    told = film([picture()] * FRAMES)
    assert told["static_clip"] == 1 and told["repeated_frames"] == 1
    still = ("frame_change", "largest_jump", "sharpness_drift", "exposure_drift", "colour_drift")
    assert all(told[name] == pytest.approx(0, abs=1e-6) for name in still)


def test_steady_motion_has_no_jump_and_a_cut_has_one() -> None:
    pan = [np.roll(picture(), shift, axis=2) for shift in range(FRAMES)]
    told = film(pan)
    assert told["static_clip"] == 0 and told["repeated_frames"] == 0
    assert told["largest_jump"] == pytest.approx(1, rel=0.1)
    slow = [0.5 + 0.02 * frame for frame in pan]
    slow[8:] = [frame + 0.4 for frame in slow[8:]]
    assert film(slow)["largest_jump"] > 10


def test_frames_shown_twice_are_counted() -> None:
    pan = [np.roll(picture(), shift // 2, axis=2) for shift in range(FRAMES)]
    assert film(pan)["repeated_frames"] == pytest.approx(8 / 15)


def test_wandering_is_told_by_kind() -> None:
    grey = np.full((3, ROWS, COLUMNS), 0.4, np.float32)
    darker = film([grey * (1 - 0.02 * t) for t in range(FRAMES)])
    assert darker["exposure_drift"] == pytest.approx(0.4 * 0.02 * 12, rel=1e-4)
    assert darker["colour_drift"] == pytest.approx(0, abs=1e-6)
    red = np.array([1.0, 0.0, 0.0], np.float32)[:, None, None]
    redder = film([grey + 0.01 * t * red for t in range(FRAMES)])
    assert redder["colour_drift"] == pytest.approx(0.12 * np.sqrt(2 / 3), rel=1e-4)
    blurred = film([grey + (0.3 - 0.01 * t) * picture() for t in range(FRAMES)])
    assert blurred["sharpness_drift"] == pytest.approx((0.3 - 0.135) / (0.3 - 0.015) - 1, rel=1e-3)


def test_flicker_is_of_brightness_and_not_of_a_fade() -> None:
    fade = [np.full((3, 8, 8), 0.1 + 0.02 * t, np.float32) for t in range(FRAMES)]
    pump = [np.full((3, 8, 8), 0.4 + 0.1 * (t % 2), np.float32) for t in range(FRAMES)]
    assert film(fade)["brightness_flicker"] == pytest.approx(0, abs=1e-6)
    assert film(pump)["brightness_flicker"] == pytest.approx(0.2, rel=1e-4)


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="F >= 4"):
        general.measure(np.zeros((1, 3, 3, 8, 8), np.float32))
