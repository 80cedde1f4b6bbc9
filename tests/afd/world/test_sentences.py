"""The grammar: every sentence and its text, both ways."""

import pytest

from afd.world.sentences import FALLING, MEETING, SentenceError, all_sentences, parse


def test_every_sentence_comes_back_from_its_text() -> None:
    sentences = all_sentences()
    texts = [sentence.text for sentence in sentences]
    assert len(set(texts)) == len(sentences) == 432
    assert [parse(text) for text in texts] == list(sentences)


def test_the_three_kinds_of_scene() -> None:
    sentences = all_sentences()
    one = [s for s in sentences if len(s.balls) == 1]
    meeting = [s for s in sentences if s.motion in MEETING]
    falling = [s for s in sentences if s.motion == FALLING]
    assert (len(one), len(meeting), len(falling)) == (144, 192, 96)
    assert all(s.meets == (s in meeting) for s in sentences)
    assert all(s.balls[0].colour != s.balls[1].colour for s in (*meeting, *falling))


def test_texts_fit_the_text_encoder() -> None:
    assert max(len(sentence.text.split()) for sentence in all_sentences()) <= 24


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "a small purple ball starts low on the left and drops straight down",
            "word 3 is 'purple'",
        ),
        ("", "word 1 is ''"),
        ("a small red ball", "ends after word 4"),
        (all_sentences()[0].text + " again", "expected the end"),
        ("A small red ball starts low on the left and drops straight down", "word 1 is 'A'"),
        ("a  small red ball starts low on the left and drops straight down", "word 2 is ''"),
        ("${oc.env:KEY}", "word 1"),
        ("a small red ball starts low on the middle and moves quickly to the left", "'moves'"),
    ],
)
def test_foreign_text_is_refused_where_it_leaves_the_grammar(text: str, told: str) -> None:
    with pytest.raises(SentenceError, match="not a sentence of the pocket world") as error:
        parse(text)
    assert told in str(error.value)
    assert "expected" in str(error.value)
