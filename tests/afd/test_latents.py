"""Geometry: the blocks tile the frames, and impossible sizes are refused by name."""

import pytest

from afd.latents import LatentGeometry


def test_blocks_tile_the_frames_once():
    geometry = LatentGeometry(
        channels=16, num_latent_frames=21, latent_frames_per_block=3, height=60, width=104
    )
    frames = [
        frame
        for block in range(geometry.num_blocks)
        for frame in range(21)[geometry.block_frames(block)]
    ]
    assert frames == list(range(21))
    assert geometry.shape(2) == (2, 16, 21, 60, 104)


@pytest.mark.parametrize("block", [-1, 7])
def test_a_block_outside_the_clip_is_an_error(block: int):
    with pytest.raises(IndexError, match="7 blocks"):
        LatentGeometry(1, 7, 1, 1, 1).block_frames(block)


def test_frames_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"num_latent_frames is 21.*multiple.*2"):
        LatentGeometry(16, 21, 2, 60, 104)


@pytest.mark.parametrize(
    "field", ["channels", "num_latent_frames", "latent_frames_per_block", "height", "width"]
)
def test_sizes_below_one_are_refused_by_name(field: str):
    sizes = {
        "channels": 4,
        "num_latent_frames": 4,
        "latent_frames_per_block": 1,
        "height": 2,
        "width": 2,
    }
    with pytest.raises(ValueError, match=field):
        LatentGeometry(**(sizes | {field: 0}))
