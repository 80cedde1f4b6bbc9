"""Diagnostics of a round's rollouts: rank correlation of scores, accuracy of a leak probe.

rank_correlation  of the score with the trajectory error, which is measured in pixels under the
                  teacher's laws. Outside the pocket world no measure ranks single rollouts, and
                  the gauge is left out.
leak_accuracy     share of clips whose side compression traces alone reveal
                  (afd/evaluation/metrics/leak_probe.py), on discriminator inputs. Look counts
                  too: a teacher with another look is recognised at once.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from afd.artifacts import Artifact
from afd.config import LawsParams
from afd.evaluation.metrics import diagnostics, leak_probe, pocket
from afd.prompts import Prompt
from afd.stages.evaluate_batches import of_pocket_world
from afd.stages.requests import POCKET_LAWS
from afd.store import Store
from afd.world import build as world
from afd.world.sentences import parse

NUM_GROUPS = 32  # of the round's 64: standard error .07 where groups have 8 members, .3 CPU-s

NUM_FRAMES, NUM_PX = 32, 128  # of a clip, for traces: a hundred clips take 50 MB


def rank_correlation(
    pictures: Tensor, prompts: Sequence[str], scores: Tensor, discriminator: Artifact, store: Store
) -> dict[str, float]:
    """Return the gauge `rank_correlation` of scores [P, K] for clips uint8 [P * K, F, 3, H, W].

    `prompts` has a text for each clip. Empty outside the pocket world and without a ranking.
    """
    num_groups, size = min(NUM_GROUPS, len(scores)), scores.shape[1]
    looked_at = pictures[: num_groups * size]
    pairs = [Prompt(id="", text=text, split="train") for text in prompts[: len(looked_at)]]
    if not of_pocket_world({"frame_size": list(pictures.shape[-2:])}, pairs):
        return {}
    sentences = [parse(prompt.text) for prompt in pairs]
    tracks = pocket.track((looked_at.float() / 255).numpy(), pocket.ball_colours(sentences))
    errors = pocket.trajectory_error(tracks, sentences, world.laws(_laws(discriminator, store)))
    found = diagnostics.rank_correlation(scores[:num_groups].numpy(), -errors.reshape(-1, size))
    return {} if found is None else {"rank_correlation": found}


def leak_accuracy(teacher: Tensor, student: Tensor, *, with_time: bool = False) -> dict[str, float]:
    """Return the gauge `leak_accuracy` of pairs uint8 [P, F, 3, H, W]; empty below leak.FEWEST.

    `with_time`: by the rhythm of the pictures too.
    """
    if len(teacher) < leak_probe.MIN_PICTURES:
        return {}
    sides = _corner(teacher), _corner(student)
    return {"leak_accuracy": leak_probe.probe(*sides, 0, with_time=with_time).accuracy}


def _corner(clips: Tensor) -> npt.NDArray[np.uint8]:
    """Return uint8 [N, F, 3, H, W] as [N, F, H, W, 3], large clips cropped on their block grid."""
    few = clips[:, :NUM_FRAMES, :, :NUM_PX, :NUM_PX]
    return few.permute(0, 1, 3, 4, 2).contiguous().numpy()


def _laws(discriminator: Artifact, store: Store) -> LawsParams:
    """Return the laws of the teacher whose clips the discriminator was fitted on."""
    clips = discriminator.manifest.made_from["teacher_clips_0"]
    laws = store.load(clips).manifest.params["teacher"].get("laws")
    return LawsParams.model_validate(laws or POCKET_LAWS)
