"""The grammar of the pocket world: every sentence is a set of attributes, and back.

A sentence names what can be seen (colour, size, place, height) and how it starts to move, and
nothing about the laws: those belong to whoever films it (afd/world/scenes.py). 432 sentences:

    144  a small red ball starts high on the left and moves quickly to the right
    192  a small red ball on the left and a large blue ball on the right start high and move
         slowly toward each other
     96  a small red ball on the left and a large blue ball on the right start low and fall
         side by side
"""

from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from typing import Literal

from afd.errors import InputError

Colour = Literal["red", "green", "blue", "yellow"]
Size = Literal["small", "large"]
Height = Literal["low", "high"]
Place = Literal["left", "middle", "right"]
Motion = Literal[
    "drops straight down",
    "drifts slowly to the left",
    "drifts slowly to the right",
    "moves quickly to the left",
    "moves quickly to the right",
    "move slowly toward each other",
    "move quickly toward each other",
    "fall side by side",
]

COLOURS: tuple[Colour, ...] = ("red", "green", "blue", "yellow")
SIZES: tuple[Size, ...] = ("small", "large")
HEIGHTS: tuple[Height, ...] = ("low", "high")
MEETING: tuple[Motion, ...] = ("move slowly toward each other", "move quickly toward each other")
FALLING: Motion = "fall side by side"

# Where one ball may start and how it may move from there. Motion is inward, so that no ball meets
# a wall inside 16 frames; from the middle only slow motion has room enough.
ONE_BALL: tuple[tuple[Place, Motion], ...] = (
    ("left", "drops straight down"),
    ("left", "drifts slowly to the right"),
    ("left", "moves quickly to the right"),
    ("middle", "drops straight down"),
    ("middle", "drifts slowly to the left"),
    ("middle", "drifts slowly to the right"),
    ("right", "drops straight down"),
    ("right", "drifts slowly to the left"),
    ("right", "moves quickly to the left"),
)


class SentenceError(InputError):
    """A text that no sentence of the pocket world's grammar produces."""


@dataclass(frozen=True)
class Ball:
    """One ball of a sentence: size, colour and place."""

    size: Size
    colour: Colour
    place: Place

    @property
    def named(self) -> str:
        return f"a {self.size} {self.colour} ball"


@dataclass(frozen=True)
class Sentence:
    """The attributes of one scene: one ball, or two balls from left to right."""

    balls: tuple[Ball, ...]
    height: Height
    motion: Motion

    @property
    def meets(self) -> bool:
        """Two balls that move toward each other: in a sound world they touch and bounce."""
        return self.motion in MEETING

    @property
    def text(self) -> str:
        if len(self.balls) == 1:
            (ball,) = self.balls
            return f"{ball.named} starts {self.height} on the {ball.place} and {self.motion}"
        left, right = self.balls
        return (
            f"{left.named} on the {left.place} and {right.named} on the {right.place} "
            f"start {self.height} and {self.motion}"
        )


@cache
def all_sentences() -> tuple[Sentence, ...]:
    """Every sentence of the grammar, in one fixed order: one ball, meeting, side by side."""
    one = [
        Sentence((Ball(size, colour, place),), height, motion)
        for size, colour, height, (place, motion) in product(SIZES, COLOURS, HEIGHTS, ONE_BALL)
    ]
    two = [
        Sentence((Ball(a, left, "left"), Ball(b, right, "right")), height, motion)
        for motion in (*MEETING, FALLING)
        for (left, right), a, b, height in product(permutations(COLOURS, 2), SIZES, SIZES, HEIGHTS)
    ]
    return (*one, *two)


@cache
def _by_text() -> dict[str, Sentence]:
    return {sentence.text: sentence for sentence in all_sentences()}


def parse(text: str) -> Sentence:
    """Return the sentence whose text is exactly `text`.

    Errors: SentenceError for anything else, naming the first word at which the text leaves every
    sentence of the grammar and what could stand there.
    """
    sentence = _by_text().get(text)
    if sentence is None:
        raise SentenceError(_where_it_leaves(text))
    return sentence


def is_sentence(text: str) -> bool:
    """Return True for a text that the grammar produces."""
    return text in _by_text()


def _where_it_leaves(text: str) -> str:
    words = text.split(" ")
    candidates = [known.split(" ") for known in _by_text()]
    for place, word in enumerate(words):
        allowed = {known[place] if place < len(known) else "the end" for known in candidates}
        candidates = [known for known in candidates if place < len(known) and known[place] == word]
        if not candidates:
            return (
                f"prompt {text[:120]!r} is not a sentence of the pocket world: word {place + 1} is "
                f"{word[:40]!r}, expected {' | '.join(sorted(allowed))}"
            )
    expected = {known[len(words)] for known in candidates}
    return (
        f"prompt {text[:120]!r} is not a sentence of the pocket world: it ends after word "
        f"{len(words)}, expected {' | '.join(sorted(expected))}"
    )
