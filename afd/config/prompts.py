"""Where a campaign's sentences come from."""

from typing import Annotated, Literal

from pydantic import Field

from afd.config.values import Count, Frozen


class Splits(Frozen):
    """How prompts without a split of their own are shared out, by hash.

    What is neither held out nor for tuning is for training; of that, `num_train` take part in
    rounds (null: all) and the others are spare: the warm start alone sees them.
    """

    num_held_out: Count
    num_tuning: Annotated[int, Field(ge=0)]  # settings are chosen on these, claims never made
    num_train: Count | None


class GrammarPrompts(Splits):
    """Every sentence of the pocket world's grammar, split by hash."""

    kind: Literal["grammar"]


class FilePrompts(Splits):
    """Sentences of a JSONL file: one object a line with `text` and, if you like, `split`."""

    kind: Literal["file"]
    path: str


Prompts = Annotated[GrammarPrompts | FilePrompts, Field(discriminator="kind")]
