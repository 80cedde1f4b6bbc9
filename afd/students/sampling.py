"""Sampler of a loaded student: noise of each clip's own seed, rollout, decode."""

from collections.abc import Sequence

from afd import seeds
from afd.flow.guidance import Guided
from afd.flow.solver import rollout
from afd.latents import Clips
from afd.students.checkpoint import LoadedStudent


def noise_seed_of(noise_seed: int, prompt_id: str) -> int:
    """Return the seed of a prompt's noise under a noise seed of an evaluation or `afd sample`."""
    return seeds.derive(noise_seed, "noise", prompt_id)


def sample_clips(
    loaded: LoadedStudent,
    sentences: Sequence[str],
    noise_seeds: Sequence[int],
    guidance: float | None = None,
    horizon: int | None = None,
) -> Clips:
    """Return clips [sentences, F, 3, H, W] in [0, 1], one for each sentence and noise seed.

    `guidance`: the scale of classifier-free guidance. `horizon`: length of the clips in lengths of
    training clips; the cache rolls on and frame numbers continue. Raises TextError for a sentence
    that the encoder cannot represent.
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
