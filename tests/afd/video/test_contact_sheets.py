"""What people look at shows the clips and nothing else."""

import io

import numpy as np
import pytest
from PIL import Image

from afd.video.contact_sheets import GAP_PX, LABEL_PX, filmstrips, side_by_side
from afd.video.decode import decode


def flat(*levels: float) -> np.ndarray:
    """A clip whose frame i is all levels[i]."""
    return np.broadcast_to(
        np.array(levels, np.float32)[:, None, None, None], (len(levels), 3, 16, 16)
    )


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_strip_shows_first_and_last_frame_in_order() -> None:
    clips = [flat(*np.linspace(0, 1, 16)), flat(*np.linspace(1, 0, 16))]
    sheet = pixels(filmstrips(clips, ["up", "down"], num_frames=4, side=64))
    row_height = LABEL_PX + 64 + GAP_PX
    assert sheet.shape == (2 * row_height, 4 * (64 + GAP_PX), 3)
    shown = [
        [
            sheet[row * row_height + LABEL_PX + 32, column * (64 + GAP_PX) + 32, 0]
            for column in range(4)
        ]
        for row in range(2)
    ]
    assert shown == [[0, 85, 170, 255], [255, 170, 85, 0]]


def test_magnification_is_nearest_neighbour() -> None:
    clip = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    sheet = pixels(filmstrips([clip], [""], num_frames=1, side=48))
    cell = sheet[LABEL_PX : LABEL_PX + 48, :48]
    expected = np.rint(clip[0] * 255).transpose(1, 2, 0).repeat(3, 0).repeat(3, 1)
    np.testing.assert_array_equal(cell, expected)


def test_values_outside_the_range_and_any_label_are_drawn() -> None:
    filmstrips([flat(-1.0, 2.0)], ["\u4e2d\u6587 \U0001f534 <b>${x}</b>\x00" + "x" * 5000])


def test_side_by_side_is_a_sound_video() -> None:
    video = decode(side_by_side([flat(0.0, 0.2), flat(0.5, 0.7), flat(1.0, 0.4)], fps=16))
    assert video.fps == 16
    assert video.frames.shape == (2, 128, 3 * 128 + 2 * 2 * GAP_PX, 3)
    middles = video.frames[:, 64, [64, 64 + 132, 64 + 264], 0]
    assert np.abs(middles - np.array([[0, 128, 255], [51, 178, 102]])).max() <= 3


def test_odd_sizes_are_padded() -> None:
    clip = np.zeros((2, 3, 45, 45), np.float32)
    assert decode(side_by_side([clip], 16, min_side=1)).frames.shape[1:3] == (46, 46)


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="one label a clip"):
        filmstrips([flat(0.0)], [])
    with pytest.raises(ValueError, match="one label a clip"):
        filmstrips([], [])
    with pytest.raises(ValueError, match="no clips"):
        side_by_side([], 16)
    with pytest.raises(ValueError, match="one shape"):
        side_by_side([flat(0.0), flat(0.0, 1.0)], 16)
