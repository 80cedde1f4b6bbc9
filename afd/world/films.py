"""A film-maker of the pocket world: sentence + seed -> the pixels of one clip."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from afd import seeds
from afd.world.physics import simulate
from afd.world.rendering import Look, colours, render
from afd.world.scenes import NUM_FRAMES, ROOM_PX, Laws, draw_laws, draw_scene, radii
from afd.world.sentences import Sentence


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
    scene = draw_scene(sentence, laws, seeds.numpy_generator(seed, "scene"))
    clip_laws = draw_laws(laws, seeds.numpy_generator(seed, "laws"))
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
    """`num_clips` clips [N, F, 3, 16, 16], the sentences in turn, clip i from (seed, "clip", i)."""
    chosen = [sentences[number % len(sentences)] for number in range(num_clips)]
    clips = np.stack(
        [
            film(sentence, laws, look, seeds.derive(seed, "clip", number), num_frames=num_frames)
            for number, sentence in enumerate(chosen)
        ]
    )
    return clips, chosen
