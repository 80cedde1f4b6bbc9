"""A film-maker of the pocket world: sentence + seed -> the pixels of one clip."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from afd import seeds
from afd.world.physics import simulate, simulate_many
from afd.world.rendering import Look, colours, render
from afd.world.scenes import (
    NUM_FRAMES,
    ROOM_PX,
    ClipLaws,
    Laws,
    Scene,
    draw_laws,
    draw_scene,
    radii,
)
from afd.world.sentences import Sentence

BATCH = 256  # clips simulated side by side: 10 MB of substeps


def film(
    sentence: Sentence,
    laws: Laws,
    look: Look,
    seed: int,
    resolution: int = int(ROOM_PX),
    num_frames: int = NUM_FRAMES,
) -> npt.NDArray[np.float32]:
    """One clip [num_frames, 3, resolution, resolution] in [0, 1].

    Scene, laws and look are separate draws of `seed`: the same seed shows the same scene under
    another law or another look.
    """
    scene, clip_laws = _draw(sentence, laws, seed)
    positions = simulate(scene, clip_laws, num_frames)
    return render(
        positions,
        radii(sentence),
        colours(sentence),
        resolution,
        look,
        seeds.numpy_generator(seed, "look"),
    )


def film_corpus(
    sentences: Sequence[Sentence],
    laws: Laws,
    look: Look,
    seed: int,
    num_clips: int,
    num_frames: int = NUM_FRAMES,
) -> tuple[npt.NDArray[np.float32], list[Sentence]]:
    """`num_clips` clips [N, F, 3, 16, 16], the sentences in turn, clip i from (seed, "clip", i).

    Clip i is `film(sentence, laws, look, seeds.derive(seed, "clip", i))`, whatever the batching.
    """
    chosen = [sentences[number % len(sentences)] for number in range(num_clips)]
    side = int(ROOM_PX)
    clips = np.empty((num_clips, num_frames, 3, side, side), np.float32)
    for start in range(0, num_clips, BATCH):
        numbers = range(start, min(start + BATCH, num_clips))
        clip_seeds = [seeds.derive(seed, "clip", number) for number in numbers]
        scenes, drawn = zip(
            *[
                _draw(chosen[number], laws, clip_seed)
                for number, clip_seed in zip(numbers, clip_seeds, strict=True)
            ],
            strict=True,
        )
        positions = simulate_many(scenes, drawn, num_frames)
        for place, number in enumerate(numbers):
            sentence = chosen[number]
            clips[number] = render(
                positions[place, :, : len(sentence.balls)],
                radii(sentence),
                colours(sentence),
                side,
                look,
                seeds.numpy_generator(clip_seeds[place], "look"),
            )
    return clips, chosen


def _draw(sentence: Sentence, laws: Laws, seed: int) -> tuple[Scene, ClipLaws]:
    scene = draw_scene(sentence, laws, seeds.numpy_generator(seed, "scene"))
    return scene, draw_laws(laws, seeds.numpy_generator(seed, "laws"))
