"""The text encoder: the same for ever, and binding colour to place."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from afd.text.encoder import TextError
from afd.text.word_vectors import NUM_TEXT_TOKENS, TEXT_DIM, encode
from afd.world.sentences import all_sentences

TEXTS = [sentence.text for sentence in all_sentences()]
GOLDEN = [-0.041302, -2.48525, -4.158022, 0.938105]
LEFT_RED = "a small red ball on the left and a small blue ball on the right start low and fall side by side"  # noqa: E501
LEFT_BLUE = "a small blue ball on the left and a small red ball on the right start low and fall side by side"  # noqa: E501


def test_shape_and_zero_padding() -> None:
    tokens = encode(TEXTS)
    assert tokens.shape == (len(TEXTS), NUM_TEXT_TOKENS, TEXT_DIM)
    assert tokens.dtype == torch.float32
    for text, rows in zip(TEXTS, tokens, strict=True):
        words = len(text.split())
        assert (rows[words:] == 0).all()
        assert (rows[:words].abs().sum(dim=1) > 0).all()


def test_a_text_is_encoded_the_same_in_any_batch() -> None:
    torch.testing.assert_close(encode(TEXTS)[17:18], encode(TEXTS[17:18]), rtol=0, atol=0)


def test_encoding_is_a_constant_of_nature() -> None:
    """Numbers written down once: a student's text must mean the same in ten years."""
    np.testing.assert_allclose(encode(["red ball"])[0, 0, :4].numpy(), GOLDEN, atol=1e-6)


def test_another_process_encodes_alike() -> None:
    program = (
        "import sys, hashlib; from afd.text.word_vectors import encode\n"
        "print(hashlib.sha256(encode([sys.argv[1]]).numpy().tobytes()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program, LEFT_RED],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = hashlib.sha256(encode([LEFT_RED]).numpy().tobytes()).hexdigest()
    assert other.strip() == here


def test_all_sentences_differ() -> None:
    sums = encode(TEXTS).sum(dim=1)
    distance = torch.cdist(sums, sums) + torch.eye(len(TEXTS)) * 1e6
    assert distance.min() > 1


def test_which_ball_is_red_can_be_read_off_linearly() -> None:
    """Same words, other places: a linear probe on any one token tells who is where."""
    pairs = [s for s in all_sentences() if len(s.balls) == 2]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    tokens = encode([pairs[i].text for i in order])[:, 0].double()
    is_red_left = torch.tensor([float(pairs[i].balls[0].colour == "red") for i in order]).double()
    features = torch.cat([tokens, torch.ones(len(pairs), 1).double()], dim=1)
    weight = torch.linalg.lstsq(features[:144], is_red_left[:144, None], driver="gelsd").solution
    found = (features[144:] @ weight)[:, 0] > 0.5  # on pairs that the probe has not seen
    assert (found == (is_red_left[144:] > 0.5)).all()
    assert not torch.allclose(encode([LEFT_RED])[0, 0], encode([LEFT_BLUE])[0, 0], atol=0.1)


@pytest.mark.parametrize("text", ["", "   ", "word " * (NUM_TEXT_TOKENS + 1)])
def test_what_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(TextError, match="words"):
        encode([text])


def test_no_texts() -> None:
    assert encode([]).shape == (0, NUM_TEXT_TOKENS, TEXT_DIM)
