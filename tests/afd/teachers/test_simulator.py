"""The embedded teacher as the method sees it: prompt in, mp4 out."""

import numpy as np
import pytest

from afd.config import LawsParams, LookParams, NonNegativeRange, ShareRange, SimulatorTeacher
from afd.evaluation.metrics.pocket import measure
from afd.teachers.simulator import build
from afd.teachers.teacher import PromptRefused, Teacher
from afd.video.decode import decode
from afd.world.sentences import all_sentences, parse
from tests.afd.canon import floats


def one(value: float) -> ShareRange:
    return ShareRange(low=value, high=value)


PARAMS = SimulatorTeacher(
    kind="simulator",
    laws=LawsParams(gravity=one(0.15), restitution=one(0.7), velocity_jitter=0.0, collide=1.0),
    look=LookParams(
        contrast=NonNegativeRange(low=0.5, high=0.9),
        background=ShareRange(low=0.15, high=0.25),
        grain=0.15,
    ),
    size=64,
    clips_per_prompt=1,
    training_permitted="yes",
)
PROMPT = "a large blue ball starts low on the left and moves quickly to the right"


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return build(PARAMS, num_frames=16, fps=16)


def test_answers_with_the_video_of_the_params(teacher: Teacher) -> None:
    clip = decode(teacher.film(PROMPT, 1))
    assert clip.frames.shape == (16, 64, 64, 3)
    assert clip.fps == 16


def test_equal_request_equal_bytes(teacher: Teacher) -> None:
    assert teacher.film(PROMPT, 1) == teacher.film(PROMPT, 1)
    assert teacher.film(PROMPT, 1) != teacher.film(PROMPT, 2)


@pytest.mark.parametrize("prompt", ["", "a cat plays the piano", "${oc.env:HOME}"])
def test_what_it_cannot_film_it_refuses(teacher: Teacher, prompt: str) -> None:
    with pytest.raises(PromptRefused, match="not a sentence of the pocket world"):
        teacher.film(prompt, 1)


def test_its_world_is_the_one_of_its_laws(teacher: Teacher) -> None:
    """Through grain, H.264 and the way down to the student's size."""
    sentences = all_sentences()[::9]
    clips = np.stack(
        [floats(teacher.film(sentence.text, number)) for number, sentence in enumerate(sentences)]
    )
    means = {name: np.nanmean(values) for name, values in measure(clips, sentences).items()}
    assert means["gravity"] == pytest.approx(0.15, abs=0.004)
    assert means["trajectory_error_px"] < 0.4
    assert means["object_permanence"] > 0.96
    assert means["interpenetration"] < 0.1  # grain fools 1 of 1,000 meeting scenes
    assert means["bounce"] == pytest.approx(0.7, abs=0.05)


def test_its_look_is_not_the_clean_one(teacher: Teacher) -> None:
    frames = np.stack([floats(teacher.film(PROMPT, seed)) for seed in range(20)])
    assert parse(PROMPT).balls[0].place == "left"
    corner = frames[:, :, :, :4, 8:]  # upper right: the ball starts low on the left
    assert 0.15 < corner.mean() < 0.27  # lifted ground
    assert 0.1 < corner.std(axis=(1, 3, 4)).mean() < 0.16  # grain of .15, clipped and coded
