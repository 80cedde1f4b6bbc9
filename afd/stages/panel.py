"""Two independent looks at a round's rollouts: does the score rank them rightly, and by what?

rank_correlation  of the score with the trajectory error, read from pixels and judged by the
                  teacher's laws. Elsewhere than in the pocket world nothing is known to rank
                  single rollouts by, and the gauge is left out.
leak_accuracy     how often traces of compression alone name the side (afd/evaluation/leak.py),
                  of clips as the discriminator sees them. Look counts too: a teacher that looks
                  different on purpose is named at once.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from afd.artifacts import Artifact
from afd.config import LawsParams
from afd.evaluation import gauges, leak, metrics
from afd.prompts import Prompt
from afd.stages.measuring import of_pocket_world
from afd.stages.requests import POCKET_LAWS
from afd.store import Store
from afd.world import build as world
from afd.world.sentences import parse

NUM_GROUPS = 32  # of the round's 64: standard error .07 where groups have 8 members, .3 CPU-s

NUM_FRAMES, NUM_PX = 32, 128  # of a clip, for traces: a hundred clips take 50 MB


def rank_correlation(
    pictures: Tensor, prompts: Sequence[str], scores: Tensor, discriminator: Artifact, store: Store
) -> dict[str, float]:
    """The gauge `rank_correlation` of scores [P, K] for pictures uint8 [P * K, F, 3, H, W].

    `prompts` has a text a picture. Empty outside the pocket world, or where nothing can be ranked.
    """
    num_groups, size = min(NUM_GROUPS, len(scores)), scores.shape[1]
    looked_at = pictures[: num_groups * size]
    asked = [Prompt(id="", text=text, split="train") for text in prompts[: len(looked_at)]]
    if not of_pocket_world({"frame_size": list(pictures.shape[-2:])}, asked):
        return {}
    sentences = [parse(prompt.text) for prompt in asked]
    tracks = metrics.track((looked_at.float() / 255).numpy(), metrics.ball_colours(sentences))
    errors = metrics.trajectory_error(tracks, sentences, world.laws(_laws(discriminator, store)))
    found = gauges.rank_correlation(scores[:num_groups].numpy(), -errors.reshape(-1, size))
    return {} if found is None else {"rank_correlation": found}


def leak_accuracy(teacher: Tensor, student: Tensor) -> dict[str, float]:
    """The gauge `leak_accuracy` of pairs uint8 [P, F, 3, H, W]; empty below leak.FEWEST of them."""
    if len(teacher) < leak.FEWEST:
        return {}
    return {"leak_accuracy": leak.probe(_corner(teacher), _corner(student), 0).accuracy}


def _corner(clips: Tensor) -> npt.NDArray[np.uint8]:
    """uint8 [N, F, 3, H, W] as [N, F, H, W, 3]: enough of large ones, on their grid."""
    few = clips[:, :NUM_FRAMES, :, :NUM_PX, :NUM_PX]
    return few.permute(0, 1, 3, 4, 2).contiguous().numpy()


def _laws(discriminator: Artifact, store: Store) -> LawsParams:
    """Those of the teacher whose clips the discriminator learned from, as evaluations have them."""
    clips = discriminator.manifest.made_from["teacher_clips_0"]
    told = store.load(clips).manifest.params["teacher"].get("laws")
    return LawsParams.model_validate(told or POCKET_LAWS)
