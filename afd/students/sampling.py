"""Clips of sentences by a loaded student: noise of each clip's own seed, rollout, decode."""

from collections.abc import Sequence

from afd import seeds
from afd.flow.guidance import Guided
from afd.flow.solver import rollout
from afd.latents import Clips
from afd.students.checkpoint import Loaded


def noise_seed_of(noise_seed: int, prompt_id: str) -> int:
    """The seed of a prompt's noise under a noise seed: evaluation's, and that of `afd sample`."""
    return seeds.derive(noise_seed, "noise", prompt_id)


def sample_clips(
    loaded: Loaded,
    sentences: Sequence[str],
    noise_seeds: Sequence[int],
    guidance: float | None = None,
    horizon: int | None = None,
) -> Clips:
    """Clips [sentences, F, 3, H, W] in [0, 1], one for each sentence and noise seed.

    `guidance`: the scale of classifier-free guidance. `horizon`: as many times as long as the
    student was trained for, the cache rolls on and frames keep counting. Raises TextError for a
    sentence that its encoder cannot represent.
    """
    student, steps = loaded.student, loaded.steps
    if horizon is not None:
        student = student.lengthened(horizon * student.geometry.num_latent_frames)
    shape = (len(steps), *student.geometry.shape(1)[1:])
    noise = seeds.sample_noise(noise_seeds, shape)
    text = loaded.encode(sentences)
    if guidance is None:
        latents = rollout(student, text, noise, steps)
    else:
        latents = rollout(Guided(student, loaded.encode([""]), guidance), text, noise, steps)
    return loaded.codec.decode(latents)
